//! Two labs with the same addresses at the same time do not touch each other.

mod common;

use std::{thread, time::Duration};

use kilo_lab::Family;

#[test]
fn two_labs_are_independent() {
    let (one, two) = thread::scope(|scope| {
        let one = scope.spawn(|| common::up(common::without_agents("one")));
        let two = scope.spawn(|| common::up(common::without_agents("two")));
        (one.join().expect("it comes up"), two.join().expect("it comes up"))
    });
    let check = |lab: &kilo_lab::Lab| {
        let matrix = lab
            .matrix_of(&["b1", "b1-p1"], Family::V6, Duration::from_secs(5))
            .expect("sockets can be opened");
        assert!(matrix.is_complete(), "{:?}", matrix.failures());
    };
    check(&one);
    check(&two);
    one.node("a1").expect("the demo has it").cut_link().expect("the port exists");
    one.api().annotate("a1", "kilo.squat.ai/location", Some("elsewhere")).expect("the API takes it");
    check(&two);
    let other = two.api().get("/api/v1/nodes/a1").expect("the API answers");
    assert!(other["metadata"]["annotations"]["kilo.squat.ai/location"].is_null(), "{other}");
    let name = one.spec().name.clone();
    drop(one);
    common::assert_gone(&name);
    check(&two);
    assert_eq!(two.api().nodes().expect("the API answers").len(), 5);
}
