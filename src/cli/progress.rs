//! How far a long walk has come.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is over sooner needs no bar.
const LONG: Duration = Duration::from_millis(500);

/// A bar on standard error, for a walk that takes long and a person who waits for it: there is none when standard output
/// or standard error is not a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    /// `size` is about how many keys there are to look at.
    pub(super) fn new(what: &'static str, size: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::hidden()).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} keys, {eta} left") {
            bar.set_style(style);
        }
        Self { bar, began: Instant::now() }
    }

    /// Another `keys` were looked at.
    pub(super) fn advance(&self, keys: u64) {
        if self.bar.is_hidden() && self.began.elapsed() > LONG && std::io::stdout().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(keys);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
