//! The last words of `cargo test --workspace`: which checks of devices ran, and which were skipped for want of one.
//! Cargo runs test programs by package and name, this one last; it is no harness, so nothing hides what it prints.

use mantissa_tests::device_checks;
use std::collections::BTreeSet;

fn main() {
    // Tools list tests and run some of them by name; that is not the end of anything.
    if std::env::args().skip(1).any(|arg| arg == "--list") {
        return;
    }
    let met = device_checks::take();
    let skipped: Vec<&str> = met.iter().filter_map(|m| m.skipped.as_deref()).collect();
    let ran = met.len() - skipped.len();
    if met.is_empty() {
        println!("device checks: none were asked for; every other test said above how it ended");
    } else if skipped.is_empty() {
        println!("device checks: {ran} ran, none was skipped; every other test said above how it ended");
    } else {
        let why: BTreeSet<&str> = skipped.iter().copied().collect();
        let why = why.into_iter().collect::<Vec<_>>().join(", ");
        println!(
            "device checks: {ran} ran, {} SKIPPED ({why}); MANTISSA_REQUIRE=wgpu makes that a failure, mesa-vulkan-drivers (Debian, Ubuntu) a device",
            skipped.len()
        );
    }
}
