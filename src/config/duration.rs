//! Durations on the command line.

use crate::clock::{MAX_MS, Ms};

/// `30s`, `24h`, `400d`, or a bare number of milliseconds.
pub(super) fn parse(text: &str) -> Result<Ms, String> {
    let ms = match text.parse::<u64>() {
        Ok(ms) => u128::from(ms),
        Err(_) => humantime::parse_duration(text)
            .map_err(|_| "write it like 30s, 24h or 400d, or as a number of milliseconds".to_owned())?
            .as_millis(),
    };
    Ms::try_from(ms).ok().filter(|ms| *ms <= MAX_MS).ok_or_else(|| "this is too long".into())
}

/// The same the other way round, in the largest unit that is exact.
pub(super) fn text(ms: Ms) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let exact = units.into_iter().find(|(_, unit)| ms != 0 && ms % unit == 0);
    exact.map_or_else(|| format!("{ms}ms"), |(name, unit)| format!("{}{name}", ms / unit))
}

#[cfg(test)]
mod tests {
    use super::{parse, text};

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("30s", 30_000),
            ("24h", 86_400_000),
            ("400d", 34_560_000_000),
            ("1500", 1500),
            ("0", 0),
            ("1h 30m", 5_400_000),
            ("250ms", 250),
        ] {
            assert_eq!(parse(text), Ok(ms));
        }
        for (ms, told) in [(34_560_000_000, "400d"), (5_400_000, "90m"), (1500, "1500ms"), (0, "0ms")] {
            assert_eq!((text(ms).as_str(), parse(told)), (told, Ok(ms)));
        }
        for text in ["", "-1", "1.5", "abc", "30x", "99999999999999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
