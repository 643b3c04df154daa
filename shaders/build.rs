//! Stitches every stem of `wgsl/`, checks it with naga and writes `kernels.rs`: the table of what each stem takes.
//!
//! A stem is one file, in `wgsl/` or, where it serves software adapters only, in `wgsl/software/`. Lines that start
//! with `//%` are directives:
//!
//! - `//% import codec, rng` puts `wgsl/shared/<name>.wgsl` in front, each once, whatever imports it;
//! - `//% const X: dtype = F32` declares a constant that a launch may set: `dtype`, `bool`, or a list such as `[1, 4,
//!   8]`;
//! - `//% needs subgroups, int64` names what not every device can do; a device that cannot never compiles the stem;
//! - `//% for r in 0..8` to `//% end` is written out once for each value (`build/repeat.rs`).
//!
//! A kernel is a stem, an entry point and values of the constants. Build scripts are not optimized, so each stem is
//! checked here with its defaults only; `src/permutations.rs` moves every constant away from its default in turn.
//! Browsers refuse more than naga does: the same texts go through Tint in `tests/tint`.
//!
//! `map.wgsl.in` is no stem: its imports are put in front, and `src/map.rs` fills in the rest. Every kernel gets a
//! prelude in front: for each ability of [`PRELUDE`], the file that suits the device.

#[path = "build/repeat.rs"]
mod repeat;
#[path = "build/stem.rs"]
mod stem;
#[path = "build/validate.rs"]
mod validate;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Abilities of a device that change the text in front of kernels: name, file for every device, file for those that
/// can do more.
const PRELUDE: [(&str, [&str; 2]); 2] =
    [("F16", ["f16/integers", "f16/unpack"]), ("VEC8", ["vec8/vectors", "software/words64"])];

/// Folders of stems.
const STEMS: [&str; 2] = ["", "software"];

fn main() {
    println!("cargo:rerun-if-changed=wgsl");
    println!("cargo:rerun-if-changed=build");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("wgsl");
    let preludes: Vec<PathBuf> = PRELUDE.iter().flat_map(|(_, files)| files.map(|f| root.join(format!("{f}.wgsl")))).collect();
    let listed = |folder: &str| fs::read_dir(root.join(folder)).expect("a folder of wgsl/ is readable");
    let mut files: Vec<PathBuf> = STEMS.iter().flat_map(|folder| listed(folder)).map(|e| e.expect("an entry").path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "wgsl") && !preludes.contains(p));
    files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    let part = |name: &str| stem::Parsed::read(&root.join(name)).unwrap_or_else(|problem| panic!("{name}: {problem}"));
    let fronts = [0, 1].map(|k| PRELUDE.map(|(_, files)| part(&format!("{}.wgsl", files[k]))));
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
    for (k, (ability, files)) in PRELUDE.iter().enumerate() {
        for (file, front) in files.iter().zip(&fronts) {
            let name = file.rsplit('/').next().unwrap_or(file).to_uppercase();
            let _ = writeln!(table, "/// `wgsl/{file}.wgsl`.\nstatic {ability}_{name}: &str = r#\"{}\"#;", front[k].text());
        }
    }
    let out = Path::new(&env::var_os("OUT_DIR").expect("set by cargo")).join("kernels.rs");
    fs::write(out, table).expect("OUT_DIR is writable");
}
