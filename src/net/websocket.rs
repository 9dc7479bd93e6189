//! WebSocket (RFC 6455), as a server speaks it: the binary frames of a connection as one stream of bytes.
//!
//! Payloads are passed on as they come, so that a frame may be of any size: what is spoken over it may have many packets
//! in one frame, or one packet in many [MQTT-6.0.0-2]. What is kept is one read, one frame to be written, and one pong.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use frame::{Decoder, Event, Opcode, Violation, write_frame};

pub mod frame;
pub mod handshake;

const READ_SIZE: usize = 8 * 1024;

/// Bytes of the largest frame that is sent.
const LARGEST_FRAME: usize = 16 * 1024;

/// Close status: the purpose of the connection is fulfilled (RFC 6455, section 7.4.1).
const NORMAL: u16 = 1000;

/// A WebSocket connection over `S`, which buffers: flush it. Shutting it down sends a Close frame.
#[derive(Debug)]
pub struct WebSocket<S> {
    stream: S,
    decoder: Decoder,
    /// Read from `stream`, not decoded yet.
    input: BytesMut,
    /// Decoded, not read yet.
    data: BytesMut,
    /// Encoded, not written yet: a frame of data and one of control at most.
    output: BytesMut,
    /// `stream` holds what was written.
    unflushed: bool,
    /// The answer to the last ping (RFC 6455, section 5.5.3: older ones need none).
    pong: Option<BytesMut>,
    closing: Option<Closing>,
}

#[derive(Clone, Copy, Debug)]
struct Closing {
    /// Close status to be sent.
    status: u16,
    sent: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// A connection after its opening handshake; `input` came behind that.
    pub fn new(stream: S, input: BytesMut) -> WebSocket<S> {
        WebSocket {
            stream,
            decoder: Decoder::default(),
            input,
            data: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            pong: None,
            closing: None,
        }
    }

    /// Writes all there is and flushes it.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.output.is_empty() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.output.advance(written);
                self.unflushed = true;
            }
            let Some(pong) = self.pong.take() else { break };
            write_frame(&mut self.output, Opcode::PONG, &pong);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Appends to `input`; 0: the client closed.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(READ_SIZE);
        pin!(self.stream.read_buf(&mut self.input)).poll(cx)
    }

    /// Waits for the end of the stream; what comes before it means nothing any more.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.input.clear();
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn close_with(&mut self, status: u16) {
        self.closing.get_or_insert(Closing { status, sent: false });
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_some() {
            return this.poll_end(cx);
        }
        loop {
            if !this.data.is_empty() {
                let read = this.data.len().min(buffer.remaining());
                buffer.put_slice(&this.data[..read]);
                this.data.advance(read);
                return Poll::Ready(Ok(()));
            }
            // A pong that the client does not take stands in the way of nothing.
            let _ = this.poll_drain(cx)?;
            match this.decoder.next(&mut this.input) {
                Ok(Some(Event::Data(data))) => this.data = data,
                Ok(Some(Event::Ping(payload))) => this.pong = Some(payload),
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close(status))) => {
                    this.close_with(status.unwrap_or(NORMAL));
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => {
                    if ready!(this.poll_fill(cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(violation @ Violation { status, .. }) => {
                    this.close_with(status);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while !this.output.is_empty() {
            ready!(this.poll_drain(cx))?;
        }
        let written = bytes.len().min(LARGEST_FRAME);
        write_frame(&mut this.output, Opcode::BINARY, &bytes[..written]);
        // It is taken; whether it has left, the flush tells.
        let _ = this.poll_drain(cx)?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.close_with(NORMAL);
        if let Some(Closing { status, sent }) = &mut this.closing {
            if !std::mem::replace(sent, true) {
                write_frame(&mut this.output, Opcode::CLOSE, &status.to_be_bytes());
            }
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::frame::masked;
    use super::*;

    fn pair(capacity: usize) -> (WebSocket<DuplexStream>, DuplexStream) {
        let (server, client) = duplex(capacity);
        (WebSocket::new(server, BytesMut::new()), client)
    }

    async fn received<const N: usize>(client: &mut DuplexStream) -> [u8; N] {
        let mut bytes = [0; N];
        client.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn packets_come_in_any_frames_and_pings_between() {
        let (mut server, mut client) = pair(1024);
        let frames = [masked(0x02, b"ab"), masked(0x89, b"!"), masked(0x00, b""), masked(0x80, b"cd")].concat();
        client.write_all(&[frames, masked(0x82, b"e")].concat()).await.unwrap();
        let mut read = [0; 5];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abcde");
        assert_eq!(received(&mut client).await, *b"\x8A\x01!");
    }

    #[tokio::test]
    async fn what_is_written_comes_in_frames() {
        let (mut server, mut client) = pair(1 << 20);
        server.write_all(&[7; LARGEST_FRAME + 1]).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(received(&mut client).await, [0x82, 126, 0x40, 0]);
        assert_eq!(received(&mut client).await, [7; LARGEST_FRAME]);
        assert_eq!(received(&mut client).await, [0x82, 1, 7]);
    }

    #[tokio::test]
    async fn a_narrow_pipe_delivers_all() {
        let (mut server, mut client) = pair(3);
        let writer = tokio::spawn(async move {
            server.write_all(b"hello").await.unwrap();
            server.write_all(b"world").await.unwrap();
            server.shutdown().await.unwrap();
        });
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"\x82\x05hello\x82\x05world\x88\x02\x03\xE8");
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn pings_that_nobody_reads_the_answers_of_cost_one_pong() {
        let (mut server, mut client) = pair(64);
        let reader = tokio::spawn(async move {
            let mut read = [0; 1];
            server.read_exact(&mut read).await.unwrap();
            server
        });
        for _ in 0..1000 {
            client.write_all(&masked(0x89, &[1; 100])).await.unwrap();
        }
        client.write_all(&masked(0x82, b"x")).await.unwrap();
        let server = reader.await.unwrap();
        assert!(server.output.len() + server.pong.map_or(0, |pong| pong.len()) <= 2 * (2 + 125));
    }

    #[tokio::test]
    async fn closing_is_answered_and_text_refused() {
        for (frame, close, kind) in [
            (masked(0x88, &4000u16.to_be_bytes()), *b"\x88\x02\x0F\xA0", None),
            (masked(0x88, b""), *b"\x88\x02\x03\xE8", None),
            (masked(0x81, b"hello"), *b"\x88\x02\x03\xEB", Some(io::ErrorKind::InvalidData)),
            (masked(0x80, b"hello"), *b"\x88\x02\x03\xEA", Some(io::ErrorKind::InvalidData)),
        ] {
            let (mut server, mut client) = pair(1024);
            client.write_all(&frame).await.unwrap();
            client.write_all(&masked(0x82, b"late")).await.unwrap();
            let mut buffer = [0; 10];
            let read = server.read(&mut buffer).await;
            assert_eq!(read.map_err(|error| error.kind()), kind.map_or(Ok(0), Err));
            server.shutdown().await.unwrap();
            assert_eq!(received(&mut client).await, close);
            drop(client);
            assert_eq!(server.read(&mut buffer).await.unwrap(), 0);
        }
    }
}
