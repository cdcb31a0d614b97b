//! What the commands print: text for people or one JSON document, on standard output; remarks on standard error. Whatever
//! a session holds may come from anybody, so nothing is printed that a terminal would obey.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use serde::Serialize;

use crate::clock::{Ms, rfc3339};

/// Prints lines. A reader that has gone away, as `head` does, is no failure.
pub(super) fn print(text: &str) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("the output cannot be written: {error}")),
        _ => Ok(()),
    }
}

/// Prints a line for a person on standard error. A failed write is ignored: there is nowhere to report it.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a document, on a line of its own.
pub(super) fn print_json(document: &impl Serialize) -> Result<(), String> {
    let json = serde_json::to_string(document).map_err(|error| format!("this cannot be told as JSON: {error}"))?;
    print(&(json_escaped(&json) + "\n"))
}

/// `text` on one line, and with escapes, as JSON has them, for what a terminal would obey.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        // Besides control characters: those that turn the direction of what follows, and line separators.
        if char.is_control()
            || matches!(char, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
        {
            let _ = write!(safe, "\\u{:04x}", u32::from(char));
        } else {
            safe.push(char);
        }
    }
    safe
}

/// The same for JSON, which means the same afterwards: what is left of such characters in it is inside of strings, but
/// for the ends of lines.
pub(super) fn json_escaped(json: &str) -> String {
    json.split(['\n', '\r', '\t']).map(escaped).collect::<Vec<_>>().join("\n")
}

/// Names and values, in two columns.
pub(super) fn columns(rows: &[(&str, String)]) -> String {
    table(&rows.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect::<Vec<_>>())
}

/// Rows of cells, in columns as wide as they need.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..).map_while(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `2026-11-23T08:00:00.000Z (in 3h 12m)`.
pub(super) fn moment(at: Ms, now: Ms) -> String {
    format!("{} ({})", rfc3339(at), relative(at, now))
}

/// `in 3h 12m`, `2days 5h ago`, `now`.
pub(super) fn relative(at: Ms, now: Ms) -> String {
    match span(at.saturating_sub(now).saturating_abs()) {
        span if span == "0s" => "now".into(),
        span if at > now => format!("in {span}"),
        span => format!("{span} ago"),
    }
}

/// The two greatest units of a span.
pub(super) fn span(ms: Ms) -> String {
    let seconds = Duration::from_secs(ms.unsigned_abs() / 1000);
    let text = humantime::format_duration(seconds).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// `1 session`, `2 sessions`.
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_printed_that_a_terminal_obeys() {
        assert_eq!(escaped("a\u{1b}[2J\n\u{9b}é\u{202e}"), "a\\u001b[2J\\u000a\\u009bé\\u202e");
        let json = "{\n  \"a\": \"\u{7f}\u{85}\"\n}";
        assert_eq!(json_escaped(json), "{\n  \"a\": \"\\u007f\\u0085\"\n}");
        let value: serde_json::Value = serde_json::from_str(&json_escaped(json)).unwrap();
        assert_eq!(value["a"], "\u{7f}\u{85}");
    }

    #[test]
    fn times_are_told_as_people_do() {
        assert_eq!(relative(11_520_000, 0), "in 3h 12m");
        assert_eq!(relative(0, 61_500), "1m 1s ago");
        assert_eq!((relative(500, 0), span(86_400_000)), ("now".into(), "1day".into()));
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "é".into(), "x".into()], vec!["bb".into(), String::new(), String::new()]];
        assert_eq!(table(&rows), "a   é  x\nbb\n");
    }
}
