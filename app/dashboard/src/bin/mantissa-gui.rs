//! The window of Mantissa.

fn main() -> std::process::ExitCode {
    mantissa_dashboard::desktop::main()
}
