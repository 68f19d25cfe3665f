//! Runs scenarios on the stock kernel, each in a virtual machine of its own, and reports.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::scenarios::{Run, SCENARIOS, Scenario};
use crate::statics::{Program, StaticBuild};
use crate::vm::{ConsoleLevel, KERNEL_PACKAGE, Machine, Upload};

/// The cargo profile of what runs in the virtual machine: optimised, but quick to build, and the same for tests.
const PROFILE: &str = "vm";

/// Prints the table.
pub fn list() {
    for Scenario { name, shows, .. } in SCENARIOS {
        println!("{name}: {shows}");
    }
}

/// Runs all scenarios, or those named, so many at once. Returns 0 when all passed; the others do not stop for one that
/// fails.
pub fn run(only: &[String], jobs: NonZeroUsize) -> Result<u8> {
    for name in only {
        if !SCENARIOS.iter().any(|scenario| scenario.name == name) {
            bail!("there is no scenario {name}; `cargo run -p xtask -- test-kernel --list` shows them");
        }
    }
    let chosen: Vec<_> = SCENARIOS
        .iter()
        .filter(|scenario| only.is_empty() || only.iter().any(|name| name == scenario.name))
        .collect();
    let start = Instant::now();
    let products = Products::build(&chosen)?;
    let built = start.elapsed();
    let (waiting, outcomes) = (Mutex::new(chosen.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.get().min(chosen.len()) {
            scope.spawn(|| {
                while let Some(scenario) = next(&waiting) {
                    let outcome = perform(scenario, &products, jobs.get() == 1);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("\n{:>6.1} s  building static programs", built.as_secs_f32());
    for Outcome { scenario, text, time } in &outcomes {
        let text = text.lines().next().unwrap_or_default();
        println!("{:>6.1} s  {scenario:<20} {text}", time.as_secs_f32());
    }
    Ok(u8::from(outcomes.iter().any(|outcome| outcome.text != PASSED)))
}

const PASSED: &str = "passed";

/// How a scenario ended.
struct Outcome {
    scenario: &'static str,
    text: String,
    time: Duration,
}

fn next<T>(waiting: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// Runs one scenario. Its output is printed as it comes, if it is the only one, and else as a whole.
fn perform(scenario: &Scenario, products: &Products, alone: bool) -> Outcome {
    let start = Instant::now();
    let mut kept = Vec::new();
    let mut direct = std::io::stdout();
    let output: &mut dyn Write = if alone { &mut direct } else { &mut kept };
    // Where it cannot be written, the run says so itself.
    let _ = writeln!(output, "=== {}: {}", scenario.name, scenario.shows);
    let text = match machine(scenario, products).and_then(|machine| machine.run(output)) {
        Ok(0) => PASSED.to_owned(),
        Ok(status) => format!("FAILED with exit status {status}"),
        Err(error) => format!("FAILED: {error:#}"),
    };
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(&kept);
    let _ = writeln!(stdout, "=== {}: {text}", scenario.name);
    Outcome { scenario: scenario.name, text, time: start.elapsed() }
}

/// Static programs: binaries by package, tests by scenario.
struct Products {
    binaries: BTreeMap<String, Program>,
    tests: BTreeMap<&'static str, Vec<Program>>,
}

impl Products {
    fn build(scenarios: &[&Scenario]) -> Result<Self> {
        let build = StaticBuild::new(PROFILE)?;
        let mut packages: Vec<_> = scenarios
            .iter()
            .flat_map(|scenario| scenario.binaries)
            .map(|&package| package.to_owned())
            .collect();
        packages.sort();
        packages.dedup();
        let programs = if packages.is_empty() { Vec::new() } else { build.binaries(&packages)? };
        let mut tests = BTreeMap::new();
        for scenario in scenarios {
            if let Run::Tests(chosen) = &scenario.run {
                tests.insert(scenario.name, build.tests(chosen)?);
            }
        }
        let binaries = programs.into_iter().map(|program| (program.name.clone(), program)).collect();
        Ok(Self { binaries, tests })
    }
}

fn machine(scenario: &Scenario, products: &Products) -> Result<Machine> {
    let mut uploads = Vec::new();
    for &package in scenario.binaries {
        // The project's packages are named like their binaries.
        let program = products.binaries.get(package);
        let program = program.with_context(|| format!("the package {package} has no binary of this name"))?;
        uploads.push(upload(program, "/usr/local/bin"));
    }
    let command = match &scenario.run {
        Run::Script(script) => ["sh", "-c", *script].map(str::to_owned).to_vec(),
        Run::Command(words) => words.iter().map(|&word| word.to_owned()).collect(),
        Run::Tests(_) => {
            uploads
                .extend(products.tests[scenario.name].iter().map(|program| upload(program, "/root/tests")));
            // All are run, also when one fails.
            let script =
                "failed=0; for test in tests/*; do echo \"--- $test\"; $test || failed=1; done; exit $failed";
            ["sh", "-c", script].map(str::to_owned).to_vec()
        }
    };
    Ok(Machine {
        kernel_package: KERNEL_PACKAGE.to_owned(),
        memory: scenario.memory.to_owned(),
        timeout: Duration::from_secs(scenario.minutes * 60),
        uploads,
        tools: scenario.tools.iter().map(|&tool| tool.to_owned()).collect(),
        modules: Vec::new(),
        environment: scenario
            .environment
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        console: ConsoleLevel::Errors,
        command,
    })
}

fn upload(program: &Program, directory: &str) -> Upload {
    Upload { source: program.path.clone(), destination: format!("{directory}/{}", program.name) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn scenarios_have_names_of_their_own() {
        let names: BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
    }

    #[test]
    fn an_unknown_scenario_is_an_error() {
        let error = run(&["no-such".to_owned()], NonZeroUsize::MIN).unwrap_err().to_string();
        assert!(error.contains("no-such"), "{error}");
    }
}
