#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh::{Problems, SegmentName};
use tracing_subscriber::layer::SubscriberExt;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reporter of the node `a`, with its log lines and Events.
struct Told {
    reporter: Reporter,
    log: Kept,
    events: Vec<(Duration, Problem)>,
    start: Instant,
    now: Instant,
    view: View,
}

impl Told {
    /// The first leader, so that it writes about everything.
    fn new() -> Self {
        let node = Arc::new(mesh::Node {
            key: Some(mesh::PublicKey::from_bytes([1; 32]).unwrap()),
            endpoint: "192.0.2.1:51820".parse().ok(),
            pod_subnets: vec!["10.42.1.0/24".parse().unwrap()],
            ..mesh::Node::named("a")
        });
        let config = mesh::TopologyConfig {
            granularity: mesh::Granularity::Full,
            subnets: mesh::allocation::Subnets::default(),
            services: Vec::new(),
        };
        let topology = mesh::Topology::new(config, [node], []);
        assert_eq!(topology.segments[0].name, SegmentName::Node("a".to_owned()));
        let now = Instant::now();
        Self {
            reporter: Reporter::default(),
            log: Kept::default(),
            events: Vec::new(),
            start: now,
            now,
            view: View { topology: Some(Arc::new(topology)), ..View::default() },
        }
    }

    /// Time passes second by second; every Event is written at once.
    fn show(&mut self, problems: impl IntoIterator<Item = Problem>, seconds: u32) {
        let problems: Problems = problems.into_iter().collect();
        self.view.problems = problems.into_sorted().into();
        let writer = self.log.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for _ in 0..seconds {
                self.reporter.tell(&self.view, "a", self.now);
                while let Some(problem) = self.reporter.events.next(self.now) {
                    assert!(self.reporter.events.next(self.now).is_none(), "one at a time");
                    self.events.push((self.now - self.start, problem));
                    self.reporter.events.done();
                }
                self.now += SECOND;
            }
        });
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| !line.contains("DEBUG")).map(str::to_owned).collect()
    }

    fn lines_with(&self, word: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(word)).count()
    }
}

fn peer(number: usize, message: &str) -> Problem {
    Problem::new(Object::Peer(format!("p{number:05}")), "Bad", message)
}

#[test]
fn a_list_of_20000_bad_entries_is_one_line_and_one_event() {
    let mut told = Told::new();
    told.show((0..20_000).map(|entry| peer(1, &format!("x{entry} is no CIDR"))), 60);
    assert_eq!((told.lines_with("WARN"), told.events.len()), (1, 1), "{:?}", told.lines());
    assert!(told.lines_with("and 19992 more like it") == 1, "{:?}", told.lines());
}

#[test]
fn three_thousand_problems_are_few_lines_and_events() {
    let mut told = Told::new();
    told.show((0..3000).map(|number| peer(number, "dead")), 60);
    assert!((26..=60).contains(&told.lines().len()), "{}", told.lines().len());
    assert!(told.lines_with("more lines about problems are left out") == 1, "{:?}", told.lines());
    assert!((25..=35).contains(&told.events.len()), "{}", told.events.len());
    assert_eq!(told.reporter.events.take_left_out(), 2900);
    // Those that waited are written at the rate that is left.
    let problems = told.view.problems.to_vec();
    told.show(problems, 900);
    assert!(told.events.len() <= 125, "{}", told.events.len());
}

#[test]
fn a_problem_that_comes_and_goes_has_one_event_in_ten_minutes() {
    let mut told = Told::new();
    for _ in 0..900 {
        told.show([peer(1, "bad")], 1);
        told.show([], 1);
    }
    let at: Vec<u64> = told.events.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(at, [0, 600, 1200]);
    assert!(told.lines_with("p00001") <= 4 + 6, "{}", told.lines_with("p00001"));
}

/// Somebody writes a new value every second.
#[test]
fn an_object_that_is_changed_all_the_time_has_few_events() {
    let mut told = Told::new();
    for second in 0..1800 {
        told.show([peer(1, &format!("{second} is no CIDR"))], 1);
    }
    assert!((25..=31).contains(&told.events.len()), "{} in half an hour", told.events.len());
    assert!(told.lines_with("p00001") <= 4 + 6, "{}", told.lines_with("p00001"));
    told.show([peer(2, "bad")], 1);
    assert_eq!(told.events.last().unwrap().1, peer(2, "bad"), "others are heard");
}

#[test]
fn others_leave_events_to_the_first_leader() {
    let mut told = Told::new();
    let node = |name: &str| Problem::new(Object::Node(name.to_owned()), "Bad", "bad");
    told.view.problems = [node("a"), node("b"), peer(1, "bad")].into();
    told.reporter.tell(&told.view, "b", told.now);
    assert_eq!(told.reporter.events.next(told.now), Some(node("b")));
    told.reporter.events.done();
    assert_eq!(told.reporter.events.next(told.now), None);
}

#[test]
fn health_that_flaps_is_few_lines() {
    let mut told = Told::new();
    for second in 0..600 {
        told.view.unhealthy = (second % 2 == 0).then(|| format!("reason {second}")).into_iter().collect();
        told.show([], 1);
    }
    assert!((20..=61).contains(&told.lines().len()), "{}", told.lines().len());
    told.view.unhealthy = Vec::new();
    told.show([], 60);
    assert!(told.lines().last().unwrap().contains("healthy: the host"), "{:?}", told.lines().last());
}
