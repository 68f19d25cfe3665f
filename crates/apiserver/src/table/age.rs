//! Ages as `kubectl` shows them.

use jiff::Timestamp;

/// How long ago an RFC 3339 time was; `<unknown>` if it is none, `<invalid>` if it lies ahead.
pub(super) fn since(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => duration(Timestamp::now().as_second() - then.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A duration in seconds, in one or two units.
fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, big_name: &str, small: i64, small_name: &str| match seconds % big / small {
        0 => format!("{}{big_name}", seconds / big),
        rest => format!("{}{big_name}{rest}{small_name}", seconds / big),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(MINUTE, "m", 1, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(HOUR, "h", MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(DAY, "d", HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(YEAR, "y", DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations() {
        let all = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (301, "5m1s"),
            (3 * 3600, "3h"),
            (90 * 60, "90m"),
            (4 * 3600 + 60, "4h1m"),
            (47 * 3600, "47h"),
            (50 * 3600, "2d2h"),
            (-1, "0s"),
            (-2, "<invalid>"),
        ];
        for (seconds, expect) in all {
            assert_eq!(duration(seconds), expect);
        }
    }
}
