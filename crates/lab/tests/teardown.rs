//! Nothing outlives a lab, however it ends.

mod common;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{assert_gone, namespaces, processes, unique};

#[test]
fn down_leaves_nothing_and_can_be_repeated() {
    let name = unique("down");
    run(&["up", "--no-agents", "--name", &name]);
    assert!(namespaces(&name).len() == 15, "{:?}", namespaces(&name));
    assert_eq!(processes(&name).len(), 1, "the API server: {:?}", processes(&name));
    // Something a user left running inside.
    let mut sleeper = Command::new(common::kilo_lab())
        .args(["exec", "--name", &name, "b1-p1", "--", "sleep", "1000"])
        .spawn()
        .expect("it runs");
    common::eventually("the sleeper being inside", Duration::from_secs(5), || {
        let seen = processes(&name);
        Ok((seen.len() != 2).then(|| format!("{seen:?}")))
    });
    run(&["down", "--name", &name]);
    sleeper.wait().expect("it is our child");
    assert_gone(&name);
    run(&["down", "--name", &name]);
}

#[test]
fn a_second_up_cleans_what_a_killed_one_left() {
    let name = unique("kill");
    for milliseconds in [0, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, 120] {
        let mut up = start(&["up", "--no-agents", "--name", &name]);
        thread::sleep(Duration::from_millis(milliseconds));
        up.kill().expect("it is our child");
        up.wait().expect("it is our child");
    }
    run(&["up", "--no-agents", "--name", &name]);
    assert_eq!((namespaces(&name).len(), processes(&name).len()), (15, 1), "{:?}", processes(&name));
    run(&["down", "--name", &name]);
    assert_gone(&name);
}

#[test]
fn ctrl_c_tears_down() {
    let name = unique("ctrlc");
    let mut up = start(&["up", "--no-agents", "--foreground", "--name", &name]);
    wait_for_line(&mut up, "is up");
    assert_eq!(namespaces(&name).len(), 15);
    let second = Command::new(common::kilo_lab())
        .args(["up", "--no-agents", "--name", &name])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && said.contains("still runs"),
        "a lab is not taken from its owner: {said}"
    );
    assert_eq!(namespaces(&name).len(), 15);
    let interrupted = Command::new("kill").args(["-INT", &up.id().to_string()]).status().expect("kill runs");
    assert!(interrupted.success());
    assert!(up.wait().expect("it is our child").success());
    assert_gone(&name);
}

#[test]
fn a_lab_whose_owner_was_killed_is_swept_by_the_next_one() {
    let (orphan, next) = (unique("orph"), unique("next"));
    let mut up = start(&["up", "--no-agents", "--foreground", "--name", &orphan]);
    wait_for_line(&mut up, "is up");
    up.kill().expect("it is our child");
    up.wait().expect("it is our child");
    let mut spec = common::without_agents("next");
    spec.sites.truncate(1);
    let lab = common::up(spec);
    assert_gone(&orphan);
    drop(lab);
    assert_gone(&next);
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_built() {
    let fails = |arguments: &[&str], part: &str| {
        let output = Command::new(common::kilo_lab()).args(arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part), "{arguments:?}: {said}");
    };
    fails(&["up", "--name", "not-a-name"], "lowercase letters or digits");
    fails(&["status", "--name", "absent"], "kilo-lab up --name absent");
    fails(&["exec", "--name", "absent", "a1", "--", "true"], "not up");
    let name = unique("noKg").to_lowercase();
    fails(&["up", "--name", &name, "--kg", "/nowhere/kg"], "/nowhere/kg");
    assert_gone(&name);
}

#[test]
fn a_lab_that_cannot_be_built_is_removed_at_once() {
    let mut spec = common::without_agents("fail");
    // Anything that is not the lab's own program: it will not serve an API.
    spec.programs.lab = Some("/bin/false".into());
    let begin = Instant::now();
    let error = kilo_lab::Lab::up(spec.clone()).expect_err("nothing serves the API").to_string();
    assert!(error.contains("/bin/false"), "{error}");
    assert!(begin.elapsed() < common::patiently(Duration::from_secs(5)), "after {:?}", begin.elapsed());
    assert_gone(&spec.name);
}

fn start(arguments: &[&str]) -> Child {
    Command::new(common::kilo_lab()).args(arguments).stdout(Stdio::piped()).spawn().expect("it runs")
}

fn run(arguments: &[&str]) {
    let output = Command::new(common::kilo_lab()).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn wait_for_line(child: &mut Child, part: &str) {
    let output = child.stdout.take().expect("its output is a pipe");
    let mut lines = BufReader::new(output).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains(part))), "it ended without saying {part:?}");
    // Keep reading, so that it can keep writing.
    thread::spawn(move || lines.count());
}
