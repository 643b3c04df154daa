//! Words of graphics libraries, which no user asked for.

use super::{TINY, lacks, mantissa, stderr};

#[test]
fn outside_a_desktop_session_no_graphics_library_writes_to_stderr() {
    let dir = tempfile::tempdir().unwrap();
    let train = [&["train", "--device", "wgpu", "--steps", "1", "--quiet"], &TINY[..]].concat();
    let doctor = [&["doctor", "--device", "wgpu", "--steps", "1"], &TINY[..4], &TINY[8..]].concat();
    let auto = [&["train", "--device", "auto", "--steps", "1", "--quiet"], &TINY[..]].concat();
    for args in [&["devices"][..], &train, &doctor, &auto] {
        let mut command = mantissa(dir.path(), args);
        let o = command.env_remove("XDG_RUNTIME_DIR").env_remove("NODEVICE_SELECT").output().expect("the program starts");
        assert!(!stderr(&o).contains("XDG_RUNTIME_DIR"), "{args:?}: {}", stderr(&o));
        if !lacks("wgpu", &o) {
            assert_eq!((o.status.code(), stderr(&o).as_str()), (Some(0), ""), "{args:?}");
        }
    }
}
