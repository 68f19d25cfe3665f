//! `tunnel IFACE`: a WireGuard interface until it is removed or the process is asked to end, configured with `wg(8)`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(interface) = std::env::args().nth(1) else {
        eprintln!("usage: tunnel IFACE");
        return ExitCode::from(2);
    };
    match tunnel::run_foreground(&interface) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
