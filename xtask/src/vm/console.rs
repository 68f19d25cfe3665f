//! Reads the virtual machine's serial console: which lines are the command's, and how the run ended.
//!
//! It sees lines and nothing else; time and processes belong to `qemu`.

use std::collections::VecDeque;

/// How many lines an error repeats.
const TAIL: usize = 25;

/// What is known from the console so far.
pub struct Console {
    /// The word with which init announces the command's exit status; new in every run, so no output can forge it.
    token: String,
    tail: VecDeque<String>,
    status: Option<u8>,
    panic: Option<String>,
}

impl Console {
    /// A console on which nothing was said.
    pub fn new(token: &str) -> Self {
        Self { token: token.to_owned(), tail: VecDeque::new(), status: None, panic: None }
    }

    /// Takes one line as it came, without its line feed, and returns what of it is to be shown.
    pub fn line(&mut self, raw: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(raw);
        let text = text.trim_end_matches('\r');
        let shown = match text.split_once(&self.token) {
            Some((before, status)) => {
                let digits = status.trim_start();
                let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
                self.status = digits[..end].parse().ok();
                (!before.is_empty()).then_some(before)
            }
            None if self.status.is_some() => None,
            None => Some(text),
        }?;
        if shown.contains("Kernel panic - not syncing") {
            self.panic = Some(shown.to_owned());
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(shown.to_owned());
        Some(shown.to_owned())
    }

    /// The exit status of the command, once it was announced.
    pub fn status(&self) -> Option<u8> {
        self.status
    }

    /// What the kernel said when it gave up.
    pub fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }

    /// The last lines, for an error message.
    pub fn tail(&self) -> String {
        if self.tail.is_empty() {
            return "the console stayed silent".to_owned();
        }
        let lines: Vec<_> = self.tail.iter().map(|line| format!("  | {line}")).collect();
        format!("the last lines of the console:\n{}", lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> (Console, Vec<String>) {
        let mut console = Console::new("status-77aa:");
        let shown = lines.iter().filter_map(|line| console.line(line.as_bytes())).collect();
        (console, shown)
    }

    #[test]
    fn the_status_is_read_and_not_shown() {
        let (console, shown) = read(&["hello\r", "status-77aa: 3\r", "[    2.3] reboot: Power down\r"]);
        assert_eq!(console.status(), Some(3));
        assert_eq!(shown, ["hello"]);
    }

    #[test]
    fn a_last_line_without_line_feed_is_kept() {
        let (console, shown) = read(&["no line feedstatus-77aa: 0"]);
        assert_eq!((console.status(), shown), (Some(0), vec!["no line feed".to_owned()]));
    }

    #[test]
    fn a_kernel_message_may_follow_the_status() {
        let (console, _) = read(&["status-77aa: 12[    2.3] a kernel message"]);
        assert_eq!(console.status(), Some(12));
    }

    #[test]
    fn another_word_is_no_status() {
        let (console, _) = read(&["status-77ab: 0", "status: 0"]);
        assert_eq!(console.status(), None);
        let (console, _) = read(&["status-77aa: 999"]);
        assert_eq!(console.status(), None);
    }

    #[test]
    fn a_panic_is_noticed() {
        let (console, _) = read(&["[    3.1] Kernel panic - not syncing: sysrq triggered crash\r"]);
        assert!(console.panic().is_some_and(|line| line.ends_with("sysrq triggered crash")));
        assert_eq!(console.status(), None);
    }

    #[test]
    fn the_tail_is_short() {
        let lines: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        let (console, _) = read(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let tail = console.tail();
        assert!(tail.ends_with("| 99") && tail.lines().count() == TAIL + 1, "{tail}");
        assert_eq!(read(&[]).0.tail(), "the console stayed silent");
    }
}
