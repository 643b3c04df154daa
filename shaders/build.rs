//! Stitches every stem of `wgsl/`, checks it with naga and writes `kernels.rs`: the table of what each stem takes.
//!
//! A stem is one file. Lines that start with `//%` speak to this script:
//!
//! - `//% import codec, rng` puts `wgsl/shared/<name>.wgsl` in front, each once, whatever imports it;
//! - `//% const X: dtype = F32` declares a constant that a launch may set: `dtype`, `bool`, or a list such as `[1, 4, 8]`;
//! - `//% needs subgroups, int64` says what not every device can do; launches then look whether theirs can;
//! - `//% for r in 0..8` to `//% end` is written out once for each value (`build/repeat.rs`).
//!
//! A kernel is a stem, an entry point and values of the constants. Each stem is checked with its defaults and with every constant moved
//! away from its default in turn. Browsers refuse more than naga does: the same texts go through Tint in `tests/tint`.
//!
//! `map.wgsl.in` is no stem: its imports are put in front, and `src/map.rs` fills in the rest. Of `f16/` every kernel gets the file in front that
//! suits the device; each stem is checked with each.

#[path = "build/repeat.rs"]
mod repeat;
#[path = "build/stem.rs"]
mod stem;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Files of `wgsl/f16`.
const DECODINGS: [&str; 2] = ["integers", "unpack"];

fn main() {
    println!("cargo:rerun-if-changed=wgsl");
    println!("cargo:rerun-if-changed=build");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("wgsl");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&root).expect("wgsl/ is readable").map(|e| e.expect("an entry").path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "wgsl"));
    files.sort();
    let part = |name: &str| stem::Parsed::read(&root.join(name)).unwrap_or_else(|problem| panic!("{name}: {problem}"));
    let f16 = DECODINGS.map(|name| part(&format!("f16/{name}.wgsl")));
    let mut table = String::from("/// Every stem, by name.\npub static STEMS: &[Stem] = &[\n");
    for path in files {
        let row = stem::Parsed::read(&path).and_then(|parsed| parsed.check(&f16).map(|reflected| parsed.row(&f16, &reflected)));
        match row {
            Ok(row) => table.push_str(&row),
            Err(problem) => {
                // One message a file, in the form editors know.
                eprintln!("{}: {problem}", path.display());
                std::process::exit(1);
            }
        }
    }
    table.push_str("];\n");
    let template = part("map.wgsl.in");
    let _ =
        writeln!(table, "/// `wgsl/map.wgsl.in` with its imports.\nstatic MAP_TEMPLATE: &str = r#\"{}\"#;", template.text());
    for (name, decoding) in DECODINGS.iter().zip(&f16) {
        let constant = format!("F16_BY_{}", name.to_uppercase());
        let _ = writeln!(table, "/// `wgsl/f16/{name}.wgsl`.\nstatic {constant}: &str = r#\"{}\"#;", decoding.text());
    }
    table.push_str("/// Name and text of every file of `wgsl/f16`.\npub static DECODINGS: &[(&str, &str)] = &[");
    for name in DECODINGS {
        let _ = write!(table, "({name:?}, F16_BY_{}), ", name.to_uppercase());
    }
    table.push_str("];\n");
    let out = Path::new(&env::var_os("OUT_DIR").expect("set by cargo")).join("kernels.rs");
    fs::write(out, table).expect("OUT_DIR is writable");
}
