//! When the host is looked at and changed: after events, at least once in a period, again after every change until nothing
//! is left to do, and less and less often while it does not work out. What is looked for and changed is not known here.

use std::time::{Duration, Instant};

use hostnet::Change;
use pace::Bucket;

/// Events that follow each other this closely lead to one round.
const GATHER: Duration = Duration::from_millis(10);

/// How long routes of others are gathered before the host is looked at: the mesh hides a new one no longer than this, and
/// a container network that sets one for each pod does not keep the agent busy.
const HOST_ROUTES: Duration = Duration::from_millis(500);

/// Applies whose outcome is looked at before the host is given up on for a while.
const ATTEMPTS: u32 = 4;

/// The first pause after a failure; it doubles up to the resync period.
const RETRY: Duration = Duration::from_secs(1);

/// Changes of the mesh that lead to a round at once. More of them wait, so that whoever changes an object all the time does
/// not decide how busy all agents are.
const AT_ONCE: u32 = 250;

/// The shortest time after which one more change leads to a round at once.
const PACE: Duration = Duration::from_millis(100);

/// While changes wait, rounds take one part in so many of the time.
const SHARE: u32 = 10;

/// Where in a round the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Observing,
    Applying,
}

/// The order of looks and changes.
#[derive(Debug)]
pub(crate) struct Rounds {
    /// The host is looked at at least this often.
    resync_period: Duration,
    phase: Phase,
    /// When the next look is due.
    next: Option<Instant>,
    /// Applies without an empty plan since the last success.
    attempts: u32,
    /// Rounds that ended badly since the last one that ended well.
    failed_in_a_row: u32,
    /// After a failure: when to try again at the earliest.
    not_before: Option<Instant>,
    /// When the round began that is not over.
    began: Option<Instant>,
    /// Changes of the mesh that may lead to a round at once.
    changes: Bucket,
    /// Whether the next round is for a change that had to wait.
    owed: bool,
}

impl Rounds {
    pub fn new(resync_period: Duration) -> Self {
        Self {
            resync_period,
            phase: Phase::Idle,
            next: None,
            attempts: 0,
            failed_in_a_row: 0,
            not_before: None,
            began: None,
            changes: Bucket::new(AT_ONCE, PACE),
            owed: false,
        }
    }

    /// A look is due at once.
    pub fn look_now(&mut self, now: Instant) {
        self.next = Some(now);
    }

    /// Something on the host may have changed. This does not shorten the pause after a failure, so that a fight with
    /// something else on the host does not become a busy loop.
    pub fn look_soon(&mut self, now: Instant) {
        self.look_within(GATHER, now);
    }

    /// Routes of others may have changed. There may be many of them, and the look that is due may be later than the first.
    pub fn look_at_host_routes(&mut self, now: Instant) {
        self.look_within(HOST_ROUTES, now);
    }

    /// The mesh has changed: what failed before may be what has just been put right.
    pub fn look_anew(&mut self, now: Instant) {
        self.not_before = None;
        // It is taken in with others that are about to be.
        if self.next.is_some_and(|at| at <= now + GATHER) {
            return;
        }
        if self.changes.take(now) {
            self.look_within(GATHER, now);
        } else {
            self.owed = true;
            self.look_within(self.changes.next(now).saturating_duration_since(now).max(GATHER), now);
        }
    }

    /// A look is due after a while, or sooner.
    pub fn look_within(&mut self, delay: Duration, now: Instant) {
        let at = (now + delay).max(self.not_before.unwrap_or(now));
        self.next = Some(self.next.map_or(at, |before| before.min(at)));
    }

    /// Whether to look at the host now; if so, [`Rounds::observed`] is waited for.
    pub fn begin(&mut self, now: Instant) -> bool {
        let due = self.phase == Phase::Idle && self.next.is_some_and(|at| at <= now);
        if due {
            self.phase = Phase::Observing;
            self.next = None;
            self.began.get_or_insert(now);
            if std::mem::take(&mut self.owed) {
                self.changes.take(now);
            }
        }
        due
    }

    /// When [`Rounds::begin`] will say yes; `None` while an outcome is waited for.
    pub fn timeout(&self) -> Option<Instant> {
        self.next.filter(|_| self.phase == Phase::Idle)
    }

    /// The host was looked at. Whether this was waited for.
    pub fn observed(&mut self) -> bool {
        self.end(Phase::Observing)
    }

    /// Changes were applied. Whether this was waited for.
    pub fn applied(&mut self) -> bool {
        self.end(Phase::Applying)
    }

    fn end(&mut self, phase: Phase) -> bool {
        let expected = self.phase == phase;
        if expected {
            self.phase = Phase::Idle;
        }
        expected
    }

    /// Changes, at least one, are about to be applied; [`Rounds::applied`] is waited for. An error says that they have
    /// been tried too often.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), String> {
        if self.attempts >= ATTEMPTS {
            let first = changes.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Err(format!(
                "{} changes do not stick, something else on the host undoes them; among them: {first}",
                changes.len()
            ));
        }
        self.attempts += 1;
        self.phase = Phase::Applying;
        Ok(())
    }

    /// The host is as it should be. The next look comes after the resync period, or `sooner`.
    pub fn succeed(&mut self, sooner: Option<Duration>, now: Instant) {
        self.is_over(now);
        self.attempts = 0;
        self.failed_in_a_row = 0;
        self.not_before = None;
        let period = self.resync_period;
        self.look_within(sooner.map_or(period, |pause| pause.min(period)), now);
    }

    /// The longer rounds take, the longer further changes wait.
    fn is_over(&mut self, now: Instant) {
        if let Some(took) = self.began.take().map(|began| now.saturating_duration_since(began)) {
            self.changes.refill_every((took * SHARE).max(PACE), now);
        }
    }

    /// Gives up for a while that doubles with every failure.
    pub fn fail(&mut self, now: Instant) {
        self.is_over(now);
        self.attempts = 0;
        let pause = (RETRY * 2u32.pow(self.failed_in_a_row.min(5))).min(self.resync_period);
        self.failed_in_a_row += 1;
        self.not_before = Some(now + pause);
        self.next = self.not_before;
    }
}

#[cfg(test)]
mod tests {
    use hostnet::Change;
    use proptest::prelude::*;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(30);

    fn change() -> Change {
        Change::SetUp("kilo0".parse().expect("a name"), true)
    }

    /// Somebody changes an object a hundred times a second, and a round takes 20 ms.
    #[test]
    fn changes_without_end_leave_most_of_the_time_to_others() {
        let (mut rounds, start) = (Rounds::new(PERIOD), Instant::now());
        let (mut count, mut busy) = (0, Duration::ZERO);
        let cost = Duration::from_millis(20);
        for millisecond in 0..60_000u64 {
            let now = start + Duration::from_millis(millisecond);
            if millisecond % 10 == 0 {
                rounds.look_anew(now);
            }
            if rounds.begin(now) {
                assert!(rounds.observed());
                rounds.succeed(None, now + cost);
                if millisecond >= 30_000 {
                    (count, busy) = (count + 1, busy + cost);
                }
            }
        }
        assert!(busy <= Duration::from_secs(30) / SHARE, "{count} rounds took {busy:?}");
        assert!(count > 100, "the last change is not forgotten: {count}");
        // At rest, a change is taken in at once.
        let later = start + Duration::from_secs(180);
        assert!(rounds.begin(later) && rounds.observed());
        rounds.succeed(None, later);
        rounds.look_anew(later);
        assert_eq!(rounds.timeout(), Some(later + GATHER));
    }

    #[test]
    fn events_that_follow_closely_are_one_round() {
        let (mut rounds, start) = (Rounds::new(PERIOD), Instant::now());
        for millisecond in 0..8 {
            rounds.look_soon(start + Duration::from_millis(millisecond));
        }
        assert!(!rounds.begin(start + GATHER - Duration::from_nanos(1)));
        assert!(rounds.begin(start + GATHER));
        assert_eq!(rounds.timeout(), None, "the outcome is waited for");
        assert!(!rounds.applied() && rounds.observed() && !rounds.observed());
    }

    #[test]
    fn what_does_not_stick_is_tried_four_times_and_then_seldom() {
        let (mut rounds, mut now) = (Rounds::new(PERIOD), Instant::now());
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            for _ in 0..ATTEMPTS {
                assert_eq!(rounds.apply(&[change()]), Ok(()));
                assert!(rounds.applied());
            }
            assert!(rounds.apply(&[change()]).is_err_and(|error| error.contains("do not stick")));
            rounds.fail(now);
            rounds.look_soon(now);
            assert_eq!(rounds.timeout(), Some(now + Duration::from_secs(pause)), "a notice shortens nothing");
            now += Duration::from_secs(pause);
            assert!(rounds.begin(now) && rounds.observed());
        }
        rounds.fail(now);
        rounds.look_anew(now);
        assert_eq!(rounds.timeout(), Some(now + GATHER), "another mesh is another chance");
    }

    proptest! {
        /// Whatever happens, a machine that reports its outcomes looks again within the period.
        #[test]
        fn a_look_is_always_due_within_the_period(events in proptest::collection::vec(0u8..6, 1..60)) {
            let (mut rounds, mut now) = (Rounds::new(PERIOD), Instant::now());
            rounds.look_now(now);
            for event in events {
                match event {
                    0 => rounds.look_soon(now),
                    1 => rounds.look_anew(now),
                    2 => now += Duration::from_millis(700),
                    _ => {
                        now = rounds.timeout().expect("idle").max(now);
                        prop_assert!(rounds.begin(now) && rounds.observed());
                        match event {
                            3 => rounds.succeed(None, now),
                            4 => rounds.fail(now),
                            _ if rounds.apply(&[change()]).is_ok() => {
                                prop_assert!(rounds.applied());
                                rounds.look_now(now);
                            }
                            _ => rounds.fail(now),
                        }
                    }
                }
                prop_assert!(rounds.timeout().is_some_and(|at| at <= now + PERIOD));
            }
        }
    }
}
