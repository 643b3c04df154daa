//! Stitches every stem of `wgsl/`, checks it with naga and writes `kernels.rs`: the table of what each stem takes.
//!
//! A stem is one file. Lines that start with `//%` speak to this script:
//!
//! - `//% import codec, rng` puts `wgsl/shared/<name>.wgsl` in front, each once, whatever imports it;
//! - `//% const X: dtype = F32` declares a constant that a launch may set: `dtype`, `bool`, or a list such as `[1, 4, 8]`;
//! - `//% needs subgroups, int64` says what not every device can do; launches then look whether theirs can;
//! - `//% for r in 0..8` to `//% end` is written out once for each value (`build/repeat.rs`).
//!
//! A kernel is a stem, an entry point and values of the constants. Here each stem is checked with its defaults only, since build scripts are not
//! optimized; `src/permutations.rs` checks it with every constant moved away from its default in turn. Browsers refuse more than naga does: the
//! same texts go through Tint in `tests/tint`.
//!
//! `map.wgsl.in` is no stem: its imports are put in front, and `src/map.rs` fills in the rest. Of `f16/` and of `eights/` every kernel gets the file in
//! front that suits the device.

#[path = "build/repeat.rs"]
mod repeat;
#[path = "build/stem.rs"]
mod stem;
#[path = "build/validate.rs"]
mod validate;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Folders of `wgsl/` and their files: for every device, for those that can do more.
const CHOICES: [(&str, [&str; 2]); 2] = [("f16", ["integers", "unpack"]), ("eights", ["vectors", "words64"])];

fn main() {
    println!("cargo:rerun-if-changed=wgsl");
    println!("cargo:rerun-if-changed=build");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("wgsl");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&root).expect("wgsl/ is readable").map(|e| e.expect("an entry").path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "wgsl"));
    files.sort();
    let part = |name: &str| stem::Parsed::read(&root.join(name)).unwrap_or_else(|problem| panic!("{name}: {problem}"));
    let fronts = [0, 1].map(|k| CHOICES.map(|(folder, names)| part(&format!("{folder}/{}.wgsl", names[k]))));
    let mut table = String::from("/// Every stem, by name.\npub static STEMS: &[Stem] = &[\n");
    for path in files {
        let row = stem::Parsed::read(&path)
            .and_then(|parsed| parsed.reflect(&fronts[0]).map(|reflected| parsed.row(&fronts, &reflected)));
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
    for (k, (folder, names)) in CHOICES.iter().enumerate() {
        for (name, front) in names.iter().zip(&fronts) {
            let constant = format!("{}_BY_{}", folder.to_uppercase(), name.to_uppercase());
            let _ = writeln!(table, "/// `wgsl/{folder}/{name}.wgsl`.\nstatic {constant}: &str = r#\"{}\"#;", front[k].text());
        }
    }
    let out = Path::new(&env::var_os("OUT_DIR").expect("set by cargo")).join("kernels.rs");
    fs::write(out, table).expect("OUT_DIR is writable");
}
