//! Text from objects, as it may be shown: on one line, and without characters that a terminal or a viewer obeys.
//!
//! Whoever may write an annotation may put anything into it. A line break forges a log line, an escape sequence
//! rewrites a terminal, and a bidirectional override makes text read as other text. They are shown as what they are, for
//! example `\n` and `\u{1b}`.

use std::fmt::{self, Display, Write};

/// Whether a character may be shown as it is. Not: control characters (C0, DEL, C1), line and paragraph separators,
/// bidirectional controls, invisible and zero-width characters, tags, and noncharacters, which XML forbids.
pub fn is_plain(character: char) -> bool {
    match character {
        ' '..='~' => true,
        '\0'..='\u{9f}' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' => false,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => false,
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => false,
        // The last two of every plane, and 32 in the Arabic presentation forms.
        '\u{fdd0}'..='\u{fdef}' => false,
        other => u32::from(other) & 0xfffe != 0xfffe,
    }
}

/// Shows a value with all its characters plain.
#[derive(Debug, Clone, Copy)]
pub struct Plain<T>(pub T);

impl<T: Display> Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { to: f, lines: false }, "{}", self.0)
    }
}

/// Shows a document, which may have several lines, with all other characters plain.
#[derive(Debug, Clone, Copy)]
pub struct PlainLines<T>(pub T);

impl<T: Display> Display for PlainLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { to: f, lines: true }, "{}", self.0)
    }
}

/// A text with all its characters plain; without a copy if they are.
pub fn plain(text: String) -> String {
    if text.chars().all(is_plain) { text } else { Plain(text).to_string() }
}

struct Escaping<'a, W> {
    to: &'a mut W,
    /// Whether line breaks and tabs stay.
    lines: bool,
}

impl<W: Write> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let stays = |character| is_plain(character) || (self.lines && matches!(character, '\n' | '\t'));
        let mut rest = text;
        while let Some(at) = rest.find(|character| !stays(character)) {
            self.to.write_str(&rest[..at])?;
            let mut characters = rest[at..].chars();
            if let Some(character) = characters.next() {
                write!(self.to, "{}", character.escape_default())?;
            }
            rest = characters.as_str();
        }
        self.to.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_obeyed_is_shown_and_what_is_read_stays() {
        for (text, shown) in [
            ("eu-west-1", "eu-west-1"),
            ("Köln \u{1f980} 北京 \"q\" \\", "Köln \u{1f980} 北京 \"q\" \\"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31m\u{9b}31m\u{7f}\0", "\\u{1b}[31m\\u{9b}31m\\u{7f}\\u{0}"),
            ("a\u{202e}b\u{2066}\u{2028}\u{200b}\u{feff}", "a\\u{202e}b\\u{2066}\\u{2028}\\u{200b}\\u{feff}"),
            ("\u{fffe}\u{1ffff}\u{e0041}", "\\u{fffe}\\u{1ffff}\\u{e0041}"),
        ] {
            assert_eq!(Plain(text).to_string(), shown);
            assert_eq!(plain(text.to_owned()), shown);
        }
        assert_eq!(PlainLines("a\n\tb\r\u{1b}").to_string(), "a\n\tb\\r\\u{1b}");
    }

    proptest! {
        #[test]
        fn nothing_is_left_to_obey(text in any::<String>()) {
            prop_assert!(Plain(&text).to_string().chars().all(is_plain));
        }
    }
}
