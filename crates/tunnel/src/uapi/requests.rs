//! Cutting what a client sends into requests, each of which ends with an empty line.

use zeroize::Zeroizing;

/// What has arrived and was not yet taken out; wiped when dropped, as it may hold keys.
#[derive(Default)]
pub(crate) struct Requests {
    text: Zeroizing<Vec<u8>>,
    /// So much of the text holds no end of a request.
    searched: usize,
}

impl Requests {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    /// Bytes that wait.
    pub(crate) fn size(&self) -> usize {
        self.text.len()
    }

    /// Takes out the first request that is complete.
    pub(crate) fn next(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let end = self.text[self.searched..].windows(2).position(|pair| pair == b"\n\n");
        let Some(end) = end.map(|at| self.searched + at + 2) else {
            self.searched = self.text.len().saturating_sub(1);
            return None;
        };
        self.searched = 0;
        let rest = Zeroizing::new(self.text.split_off(end));
        Some(std::mem::replace(&mut self.text, rest))
    }
}
