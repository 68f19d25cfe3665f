//! YAML as Go's `sigs.k8s.io/yaml` writes it: keys sorted, lists not indented, and in double quotes every text that a reader
//! of YAML 1.1, as `kubectl` is, would take for something else than a text.

use std::fmt::Write as _;

use serde_json::Value;

/// A value with a line break at the end.
pub fn print(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

/// A value that begins on a line of its own, at a depth of so many spaces.
fn block(value: &Value, depth: usize, text: &mut String) {
    // Writing into a text never fails.
    let _ = match value {
        Value::Object(fields) if !fields.is_empty() => fields.iter().try_for_each(|(key, value)| {
            write!(text, "{:depth$}{}:", "", scalar(key))?;
            below(value, depth, text);
            Ok(())
        }),
        Value::Array(entries) if !entries.is_empty() => entries.iter().try_for_each(|entry| {
            write!(text, "{:depth$}-", "")?;
            below(entry, depth, text);
            Ok(())
        }),
        other => writeln!(text, "{:depth$}{}", "", inline(other)),
    };
}

/// A value behind a key or a dash.
fn below(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            block(value, depth + 2, text);
        }
        Value::Array(entries) if !entries.is_empty() => {
            text.push('\n');
            block(value, depth, text);
        }
        other => {
            text.push(' ');
            text.push_str(&inline(other));
            text.push('\n');
        }
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        // Numbers, truth values, null and what is empty are the same in both languages.
        other => other.to_string(),
    }
}

/// A text, in quotes unless it is plain to every reader.
fn scalar(text: &str) -> String {
    if is_plain(text) && !is_ambiguous(text) { text.to_owned() } else { Value::from(text).to_string() }
}

/// Whether a text has only characters that mean nothing to YAML where they stand.
fn is_plain(text: &str) -> bool {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._/:+=<>-".contains(&byte);
    text.bytes().all(harmless) && !text.starts_with('-') && !text.ends_with(':')
}

/// Whether a text reads as null, a truth value, a number, a time, or a mark.
fn is_ambiguous(text: &str) -> bool {
    const WORDS: [&str; 13] =
        ["", "~", "null", "y", "n", "yes", "no", "on", "off", "true", "false", "=", "<<"];
    let lower = text.to_ascii_lowercase();
    WORDS.contains(&lower.as_str()) || is_number(&lower) || is_sexagesimal(&lower) || is_date(&lower)
}

fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']).replace('_', "");
    let of_radix = |prefix: &str, radix| {
        let rest = digits.strip_prefix(prefix);
        rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(|digit| digit.is_digit(radix)))
    };
    let decimal = digits.starts_with(|first: char| first.is_ascii_digit() || first == '.');
    (decimal && digits.parse::<f64>().is_ok())
        || [".inf", ".nan"].contains(&digits.as_str())
        || of_radix("0x", 16)
        || of_radix("0o", 8)
        || of_radix("0b", 2)
}

/// Numbers with the base 60, as IPv6 addresses may look: `1:30`.
fn is_sexagesimal(text: &str) -> bool {
    let (whole, fraction) = text.trim_start_matches(['+', '-']).split_once('.').unwrap_or((text, ""));
    let mut parts = whole.trim_start_matches(['+', '-']).split(':');
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let first = parts.next().unwrap_or_default();
    let mut rest = parts.peekable();
    first.starts_with(|digit: char| digit.is_ascii_digit())
        && is_digits(first)
        && is_digits(fraction)
        && rest.peek().is_some()
        && rest.all(|part| part.parse::<u8>().is_ok_and(|number| number < 60))
}

/// What begins as a date: `2026-01-01`.
fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let is_digits = |part: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let (Some(year), Some(month), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let day = rest.split(['t', ' ']).next().unwrap_or_default();
    is_digits(year, 4..=4) && is_digits(month, 1..=2) && is_digits(day, 1..=2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_reads_as_something_else_is_quoted() {
        for text in [
            "",
            "~",
            "null",
            "Null",
            "NULL",
            "y",
            "Y",
            "n",
            "N",
            "yes",
            "Yes",
            "no",
            "NO",
            "on",
            "On",
            "off",
            "OFF",
            "true",
            "True",
            "false",
            "FALSE",
            "0",
            "7",
            "-7",
            "+7",
            "007",
            "1_000",
            "1e3",
            "1E3",
            "1.5",
            "1.",
            ".5",
            "+.5e-3",
            "0x10",
            "0b11",
            "0o17",
            ".inf",
            "-.Inf",
            ".NaN",
            "2026-01-01",
            "2026-1-1",
            "2026-01-01t10.00.00",
            "1:30",
            "190:20:30.15",
            "2001:10:20:30:40:50:1:2",
            "=",
            "<<",
            " a",
            "a ",
            "a: b",
            "a #b",
            "a:",
            "- a",
            "-",
            "---",
            "? a",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "'a'",
            "\"a\"",
            "[a",
            "{a",
            "a, b",
            "|",
            ">a b",
            "a\nb",
            "ä",
            "\u{85}",
            "fd00::",
        ] {
            assert!(scalar(text).starts_with('"'), "{text:?} is {}", scalar(text));
        }
    }

    #[test]
    fn what_is_a_text_to_everybody_stays_plain() {
        for text in [
            "a1",
            "Peer",
            "kilo.squat.ai/v1alpha1",
            "10.5.0.1/32",
            "203.0.113.1",
            "fd00::1/64",
            "2001:db8::1",
            "on-call",
            "nullable",
            "1a",
            "0xyz",
            "2026-01",
            "2026-01-01-node",
            "WJU+zTmzCKYVdXYNn9qRjJqHMaHWQqL3tOBnVJG5t3Q=",
            "inf",
            "nan",
        ] {
            assert_eq!(scalar(text), text);
        }
    }

    #[test]
    fn the_form_is_gos() {
        let value = json!({
            "kind": "Peer", "metadata": { "name": "on" },
            "spec": { "allowedIPs": ["10.5.0.1/32", "y"], "none": [], "nothing": {}, "port": 7, "list": [{ "a": "b", "c": [] }] },
        });
        let text = "kind: Peer\nmetadata:\n  name: \"on\"\nspec:\n  allowedIPs:\n  - 10.5.0.1/32\n  - \"y\"\n  list:\n  -\n    a: b\n    \
                    c: []\n  none: []\n  nothing: {}\n  port: 7\n";
        assert_eq!(print(&value), text);
        assert_eq!(serde_norway::from_str::<Value>(text).unwrap(), value);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_text_reads_back(text in prop_oneof![any::<String>(), "[-+._:0-9a-fxoenyt ~'\"#]{0,12}"]) {
            let value = json!({ "key": text, "list": [text] });
            prop_assert_eq!(serde_norway::from_str::<Value>(&print(&value)).unwrap(), value);
        }
    }
}
