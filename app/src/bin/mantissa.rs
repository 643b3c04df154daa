//! The headless command line.

fn main() -> std::process::ExitCode {
    mantissa_app::main()
}
