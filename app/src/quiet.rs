//! Keeps words of graphics libraries off stderr.
//!
//! Where Vulkan is Mesa's, a layer of it (`VK_LAYER_MESA_device_select`) asks a Wayland compositor which GPU comes
//! first, whenever adapters are listed. Outside a desktop session (ssh, containers, cron) there is no `XDG_RUNTIME_DIR`
//! to find one in, and the Wayland library writes an error for every try. The layer is turned off by a variable that it
//! reads from the environment of the process. Changing that is unsafe once there may be threads of libraries, so the
//! program starts itself again in its own place: the same process, arguments and open files.

#[cfg(any(target_os = "linux", test))]
use std::ffi::OsStr;

/// Variable that turns the layer off.
#[cfg(any(target_os = "linux", test))]
const LAYER_OFF: &str = "NODEVICE_SELECT";
/// Variables by which people choose the GPU that the layer takes.
#[cfg(any(target_os = "linux", test))]
const LAYER_USED: [&str; 2] = ["MESA_VK_DEVICE_SELECT", "DRI_PRIME"];

/// Starts this program again with a quiet environment, if it has none. Returns where it is quiet, or cannot be made so.
/// Call it first of all.
#[cfg(target_os = "linux")]
pub fn restart_if_noisy() {
    use std::os::unix::process::CommandExt;
    let mut args = std::env::args_os();
    if !is_noisy(|name| std::env::var_os(name)) {
        return;
    }
    if let (Some(name), Ok(program)) = (args.next(), std::env::current_exe()) {
        // It returns only if the program cannot be started; then the lines are the lesser evil.
        let _ = std::process::Command::new(program).arg0(name).args(args).env(LAYER_OFF, "1").exec();
    }
}

/// Other systems have no such layer.
#[cfg(not(target_os = "linux"))]
pub fn restart_if_noisy() {}

/// Whether the layer would ask where nobody can answer.
#[cfg(any(target_os = "linux", test))]
fn is_noisy<S: AsRef<OsStr>>(variable: impl Fn(&str) -> Option<S>) -> bool {
    let set = |name: &str| variable(name).is_some_and(|value| !value.as_ref().is_empty());
    // The Wayland library takes an absolute path only.
    let session = variable("XDG_RUNTIME_DIR").is_some_and(|path| std::path::Path::new(&path).is_absolute());
    !session && variable(LAYER_OFF).is_none() && !LAYER_USED.iter().any(|name| set(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_outside_a_session_that_says_nothing_of_the_layer_is_started_again() {
        let noisy =
            |set: &[(&str, &'static str)]| is_noisy(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| *value));
        assert!(noisy(&[]) && noisy(&[("XDG_RUNTIME_DIR", "")]) && noisy(&[("XDG_RUNTIME_DIR", "run")]));
        assert!(!noisy(&[("XDG_RUNTIME_DIR", "/run/user/1000")]));
        // The second time, or by hand.
        assert!(!noisy(&[(LAYER_OFF, "1")]) && !noisy(&[(LAYER_OFF, "")]));
        assert!(!noisy(&[("DRI_PRIME", "1")]) && noisy(&[("DRI_PRIME", "")]));
    }
}
