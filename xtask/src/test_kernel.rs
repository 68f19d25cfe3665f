//! Runs scenarios on the stock kernel, one virtual machine after the other, and reports.

use std::collections::BTreeMap;
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

/// Runs all scenarios, or those named. Returns 0 when all passed; the others do not stop for one that fails.
pub fn run(only: &[String]) -> Result<u8> {
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
    let mut reports = Vec::new();
    let mut failures = 0;
    for scenario in chosen {
        println!("=== {}: {}", scenario.name, scenario.shows);
        let start = Instant::now();
        let outcome = match machine(scenario, &products)?.run() {
            Ok(0) => "passed".to_owned(),
            Ok(status) => format!("FAILED with exit status {status}"),
            Err(error) => format!("FAILED: {error:#}"),
        };
        failures += usize::from(outcome != "passed");
        println!("=== {}: {outcome}", scenario.name);
        let outcome = outcome.lines().next().unwrap_or_default();
        reports.push(format!("{:>6.1} s  {:<20} {outcome}", start.elapsed().as_secs_f32(), scenario.name));
    }
    println!("\n{:>6.1} s  building static programs", built.as_secs_f32());
    for report in reports {
        println!("{report}");
    }
    Ok(u8::from(failures > 0))
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
        let error = run(&["no-such".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("no-such"), "{error}");
    }
}
