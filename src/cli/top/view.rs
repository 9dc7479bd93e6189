//! The screen of `top`.

use std::cell::Cell as Remembered;
use std::cmp::Ordering;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};

use super::rates::{Rates, Sample};
use crate::cli::escape;
use crate::cli::status::snapshot::Device;
use crate::cli::status::{bytes, span};

/// What the devices are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    In,
    Out,
    Dropped,
    Queued,
}

/// Titles and widths; that of the names depends on the names.
const COLUMNS: [(&str, u16); 9] = [
    ("DEVICE", 0),
    ("STATE", 8),
    ("IN/s", 5),
    ("IN B/s", 6),
    ("OUT/s", 5),
    ("OUT B/s", 7),
    ("DROPPED", 7),
    ("QUEUE", 5),
    ("ERROR", 10),
];
const FIRST_NUMBER: usize = 2;
const ERROR: usize = 8;
/// Those after the name, as they are left out on a narrow terminal: the last first.
const BY_IMPORTANCE: [usize; 8] = [1, 2, 6, 7, 4, 3, 5, ERROR];

/// What is on the screen.
pub(super) struct View {
    now: Sample,
    rates: Vec<Rates>,
    /// Messages from clients and to them, a second.
    messages: (f64, f64),
    order: Order,
    reversed: bool,
    /// Devices that are left out at the top.
    offset: usize,
    /// How many there was room for when it was drawn last.
    room: Remembered<usize>,
    complaint: Option<String>,
}

impl View {
    /// The first look: all rates are 0 yet.
    pub(super) fn new(now: Sample) -> View {
        let rates = vec![Rates::default(); now.status.devices.len()];
        let (order, complaint) = (Order::Name, None);
        View {
            now,
            rates,
            messages: (0.0, 0.0),
            order,
            reversed: false,
            offset: 0,
            room: Remembered::new(1),
            complaint,
        }
    }

    /// A further look.
    pub(super) fn update(&mut self, now: Sample) {
        self.rates = now.rates_since(&self.now);
        let rate = |pointer| now.broker_rate(&self.now, pointer);
        self.messages = (rate("/received/messages"), rate("/sent/messages"));
        self.now = now;
        self.complaint = None;
    }

    /// There was nothing to see; the last look stays.
    pub(super) fn complain(&mut self, why: String) {
        self.complaint = Some(why);
    }

    /// Sorts: names upwards, numbers downwards.
    pub(super) fn sort(&mut self, order: Order) {
        (self.order, self.reversed, self.offset) = (order, false, 0);
    }

    /// Sorts the other way round.
    pub(super) fn reverse(&mut self) {
        self.reversed = !self.reversed;
    }

    /// Moves down by `lines`; the last page stays full.
    pub(super) fn scroll(&mut self, lines: isize) {
        self.offset = self.offset.saturating_add_signed(lines);
        self.offset = self.first();
    }

    /// Devices that are left out at the top now, when there may be fewer of them or more room.
    fn first(&self) -> usize {
        self.offset.min(self.now.status.devices.len().saturating_sub(self.room.get()))
    }

    /// Moves down by as many pages.
    pub(super) fn turn(&mut self, pages: isize) {
        let page = isize::try_from(self.room.get()).unwrap_or(isize::MAX);
        self.scroll(pages.saturating_mul(page));
    }

    /// Draws it; what there is no room for is left out, the devices last.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let (head, foot) = match frame.area().height {
            0..4 => (0, 0),
            4..8 => (1, 1),
            _ => (3, 1),
        };
        let lengths = [Constraint::Length(head), Constraint::Min(1), Constraint::Length(foot)];
        let [head, body, foot] = Layout::vertical(lengths).areas(frame.area());
        for (line, area) in self.head().into_iter().zip(head.rows()) {
            frame.render_widget(line, area);
        }
        // Under the titles.
        self.room.set(usize::from(body.height.saturating_sub(1)).max(1));
        frame.render_widget(self.devices(body.width), body);
        frame.render_widget(self.foot(), foot);
    }

    fn head(&self) -> [Line<'static>; 3] {
        let status = &self.now.status;
        let of = |pointer| status.broker(pointer);
        let online = status.devices.iter().filter(|device| device.state == "online").count();
        let (received, sent) = self.messages;
        [
            Line::from(format!(
                "gatepost {}  up {}  {} of {} devices online  memory {}",
                status.version,
                span(Duration::from_secs(of("/uptime"))),
                online,
                status.devices.len(),
                bytes(of("/memory/current"))
            )),
            Line::from(format!(
                "clients {}  sessions {}  messages in {}/s out {}/s  queued {}  dropped {}",
                of("/clients/connected"),
                of("/clients/connected") + of("/clients/disconnected"),
                number(received),
                number(sent),
                of("/queued/messages"),
                status.broker_dropped().iter().map(|(_, count)| count).sum::<u64>()
            )),
            match status.disk_trouble() {
                Some(trouble) => Line::styled(format!("disk {trouble}"), Style::new().fg(Color::Red)),
                None => Line::default(),
            },
        ]
    }

    fn foot(&self) -> Line<'static> {
        match &self.complaint {
            Some(why) => {
                let why = why.lines().next().unwrap_or_default();
                Line::styled(escape::encode(why.as_bytes()), Style::new().fg(Color::Red))
            }
            None => {
                let keys = "q quit  sort: n name  i in  o out  d dropped  u queue  r reverse";
                Line::styled(format!("{}{keys}", self.part()), Style::new().add_modifier(Modifier::DIM))
            }
        }
    }

    /// `1-18 of 200`, if not all devices are shown.
    fn part(&self) -> String {
        let (all, room) = (self.now.status.devices.len(), self.room.get());
        let first = self.first();
        let last = first.saturating_add(room).min(all);
        if room < all { format!("{}-{last} of {all}  ", first + 1) } else { String::new() }
    }

    fn devices(&self, width: u16) -> Table<'static> {
        let sorted = self.sorted();
        let longest = sorted.iter().map(|(device, _)| device.name.len()).max().unwrap_or_default();
        let columns = fitting(width, u16::try_from(longest).unwrap_or(u16::MAX));
        let rows = sorted.into_iter().skip(self.first()).map(|(device, rates)| row(device, rates, &columns));
        let widths = columns.iter().map(|&(column, width)| match column {
            ERROR => Constraint::Fill(1),
            _ => Constraint::Length(width),
        });
        let titles = columns.iter().map(|&(column, _)| cell(column, COLUMNS[column].0.to_owned()));
        let header = Row::new(titles).style(Style::new().add_modifier(Modifier::REVERSED));
        // What was seen last is no news.
        let style = if self.complaint.is_some() { Style::new().add_modifier(Modifier::DIM) } else { Style::new() };
        Table::new(rows, widths).header(header).style(style)
    }

    fn sorted(&self) -> Vec<(&Device, Rates)> {
        let mut devices: Vec<(&Device, Rates)> =
            self.now.status.devices.iter().zip(self.rates.iter().copied()).collect();
        let down = |a: f64, b: f64| b.total_cmp(&a);
        devices.sort_by(|(a, a_rates), (b, b_rates)| {
            let order = match self.order {
                Order::Name => Ordering::Equal,
                Order::In => down(a_rates.frames_in, b_rates.frames_in),
                Order::Out => down(a_rates.frames_out, b_rates.frames_out),
                Order::Dropped => b.all_dropped().cmp(&a.all_dropped()),
                Order::Queued => b.queued.cmp(&a.queued),
            };
            order.then_with(|| a.name.cmp(&b.name))
        });
        if self.reversed {
            devices.reverse();
        }
        devices
    }
}

fn row(device: &Device, rates: Rates, columns: &[(usize, u16)]) -> Row<'static> {
    let color = match device.state.as_str() {
        "online" => Color::Green,
        "released" => Color::Yellow,
        _ => Color::Red,
    };
    // What is over says nothing of a device that works.
    let error = device.last_error.as_deref().filter(|_| device.state != "online").unwrap_or_default();
    let mut cells = [
        escape::encode(device.name.as_bytes()),
        device.state.clone(),
        number(rates.frames_in),
        number(rates.bytes_in),
        number(rates.frames_out),
        number(rates.bytes_out),
        number(device.all_dropped() as f64),
        number(device.queued as f64),
        escape::encode(error.as_bytes()),
    ];
    let cells = columns.iter().map(|&(column, _)| cell(column, std::mem::take(&mut cells[column])));
    Row::new(cells).style(Style::new().fg(color))
}

/// Numbers stand at the right.
fn cell(column: usize, text: String) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if (FIRST_NUMBER..ERROR).contains(&column) { line.right_aligned() } else { line })
}

/// The columns that there is room for, with their widths: the most important ones, and of the longest name a part.
fn fitting(width: u16, longest_name: u16) -> Vec<(usize, u16)> {
    let name = longest_name.max(6).min((width / 4).max(10));
    let mut left = width.saturating_sub(name);
    let mut columns = vec![(0, name)];
    for column in BY_IMPORTANCE {
        let width = COLUMNS[column].1;
        if left <= width {
            break;
        }
        left -= width + 1;
        columns.push((column, width));
    }
    columns.sort_unstable();
    columns
}

/// `0`, `0.5`, `12`, `1.2k`, `35M`.
fn number(value: f64) -> String {
    const UNITS: [&str; 4] = ["k", "M", "G", "T"];
    if value < 9.95 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    if value < 9_999.5 {
        return format!("{value:.0}");
    }
    let mut value = value / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.0}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;
    use crate::cli::status::snapshot::Snapshot;

    fn sample(frames: u64, at: Instant) -> Sample {
        let devices: Vec<_> = (0..40)
            .map(|n| {
                json!({"name": format!("device-{n:02}"), "state": if n == 3 { "offline" } else { "online" },
                       "frames_in": frames * n, "queued": 40 - n, "dropped": {"no_rule": n % 7},
                       "last_error": "gone\u{1b}[2J"})
            })
            .collect();
        let status = json!({
            "version": "1.2.3", "devices": devices,
            "broker": {"uptime": 61, "clients": {"connected": 12}, "received": {"messages": frames * 5}},
        });
        Sample::new(Snapshot::new(&status), at)
    }

    fn screen(view: &View) -> Vec<String> {
        screen_of(view, 80, 24)
    }

    fn screen_of(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    #[test]
    fn a_small_terminal_shows_what_matters_most() {
        let start = Instant::now();
        let mut view = View::new(sample(0, start));
        view.update(sample(10, start + Duration::from_secs(2)));
        let lines = screen_of(&view, 40, 10);
        assert_eq!(lines[3], "DEVICE    STATE     IN/s DROPPED QUEUE");
        assert_eq!(lines[5], "device-01 online       5       1    39");
        assert!(lines[9].starts_with("1-5 of 40  q quit"), "{lines:#?}");
        let lines = screen_of(&view, 20, 5);
        assert_eq!((&*lines[1], &*lines[2]), ("DEVICE    STATE", "device-00 online"));
        screen_of(&view, 10, 2);
        view.scroll(39);
        assert_eq!(screen_of(&view, 10, 2), ["DEVICE", "device-39"]);
        for (width, height) in [(1, 1), (3, 1), (200, 1), (1, 50), (500, 200)] {
            screen_of(&view, width, height);
        }
        let lines = screen_of(&view, 120, 24);
        assert!(lines[3].ends_with("QUEUE ERROR"), "{lines:#?}");
    }

    #[test]
    fn it_fits_80_by_24_and_sorts() {
        let start = Instant::now();
        let mut view = View::new(sample(0, start));
        view.update(sample(10, start + Duration::from_secs(2)));
        let lines = screen(&view);
        assert_eq!(lines[0], "gatepost 1.2.3  up 1m 1s  39 of 40 devices online  memory 0 B");
        assert_eq!(lines[1], "clients 12  sessions 12  messages in 25/s out 0/s  queued 0  dropped 0");
        assert!(lines[3].starts_with("DEVICE") && lines[3].contains("QUEUE"), "{lines:#?}");
        assert!(lines[4].starts_with("device-00"), "{lines:#?}");
        assert!(lines[7].starts_with("device-03") && lines[7].contains("offline"), "{lines:#?}");
        assert!(lines[23].starts_with("1-19 of 40  q quit"), "{lines:#?}");

        view.sort(Order::In);
        let lines = screen(&view);
        assert!(lines[4].starts_with("device-39") && lines[4].contains(" 195 "), "{lines:#?}");
        view.sort(Order::Queued);
        view.reverse();
        assert!(screen(&view)[4].starts_with("device-39"));
        view.sort(Order::Dropped);
        assert!(screen(&view)[4].starts_with("device-06"));
        view.sort(Order::Name);
        view.turn(1000);
        let lines = screen(&view);
        assert!(lines[4].starts_with("device-21") && lines[22].starts_with("device-39"), "{lines:#?}");
        assert!(lines[23].starts_with("22-40 of 40"), "{lines:#?}");
        view.turn(-1);
        assert!(screen(&view)[4].starts_with("device-02"));
        view.scroll(-1000);
        view.complain("the gateway has stopped\nhint".to_owned());
        assert_eq!(screen(&view)[23], "the gateway has stopped");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [(0.0, "0"), (0.5, "0.5"), (12.3, "12"), (9_999.0, "9999"), (10_000.0, "10k"), (2e9, "2G")]
        {
            assert_eq!(number(value), text);
        }
    }
}
