//! A light that is switched over TCP, simulated.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::screen::Sighting;

/// Longest command that is looked at.
const MAX_LINE: u64 = 256;

/// Takes `ON` and `OFF`, one a line, and answers with its state.
pub struct Light {
    listener: TcpListener,
    port: u16,
    on: bool,
    sightings: mpsc::Sender<Sighting>,
}

impl Light {
    /// On any free port of this machine.
    pub async fn bind(sightings: mpsc::Sender<Sighting>) -> io::Result<Light> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        Ok(Light { listener, port, on: false, sightings })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves one connection after the other until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let serve = async {
            // Accepting fails when the machine is out of descriptors; the demo is then over for the light.
            while let Ok((stream, _)) = self.listener.accept().await {
                // The gateway makes a connection that broke again.
                let _ = serve(stream, &mut self.on, &self.sightings).await;
            }
        };
        tokio::select! {
            () = serve => {}
            () = stop.cancelled() => {}
        }
    }
}

/// One connection, until it is closed or a line is too long.
async fn serve(mut stream: TcpStream, on: &mut bool, sightings: &mpsc::Sender<Sighting>) -> io::Result<()> {
    let sighting = |from_device, line: &str| Sighting { device: "light", from_device, line: line.to_owned() };
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if line.pop() != Some(b'\n') {
            return Ok(());
        }
        let command = String::from_utf8_lossy(&line).trim().to_owned();
        // Nobody listens any more when the demo ends; the light goes on working.
        let _ = sightings.send(sighting(false, &command)).await;
        let answer = match command.to_ascii_uppercase().as_str() {
            "ON" | "OFF" => {
                *on = command.eq_ignore_ascii_case("ON");
                if *on { "ON" } else { "OFF" }
            }
            _ => "ERR: say ON or OFF",
        };
        let _ = sightings.send(sighting(true, answer)).await;
        writer.write_all(format!("{answer}\n").as_bytes()).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_with_its_state() {
        let (sightings, mut seen) = mpsc::channel(16);
        let light = Light::bind(sightings).await.unwrap();
        let mut wire = BufReader::new(TcpStream::connect(("127.0.0.1", light.port())).await.unwrap());
        let stop = CancellationToken::new();
        let task = tokio::spawn(light.run(stop.clone()));
        for (command, expected) in [("ON\n", "ON\n"), ("off\r\n", "OFF\n"), ("blink\n", "ERR: say ON or OFF\n")] {
            wire.write_all(command.as_bytes()).await.unwrap();
            let mut answer = String::new();
            wire.read_line(&mut answer).await.unwrap();
            assert_eq!(answer, expected);
        }
        let first = [seen.recv().await.unwrap(), seen.recv().await.unwrap()];
        assert_eq!(
            first.map(|sighting| (sighting.from_device, sighting.line)),
            [(false, "ON".to_owned()), (true, "ON".to_owned())]
        );
        stop.cancel();
        task.await.unwrap();
    }
}
