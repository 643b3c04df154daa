//! What may import what: a table of floors for each crate. ARCHITECTURE.md holds the same table, written from this one.
//!
//! A floor is one or more folders (or files at the top of a crate). Each may import those before it in its row, and the
//! floors that the row names. Besides, no files may import each other in a circle; a module and its parts count as one.
//!
//! `UPDATE_TIDY=1 cargo test -p mantissa-tests --test tidy floors` writes the tables into ARCHITECTURE.md.

use crate::imports::{Crate, circles, folder_of};
use crate::repository::{clean, files, read, root};
use std::collections::BTreeSet;

/// Some folders of a crate that stand on one floor.
struct Floor {
    name: &'static str,
    /// In order: each may import those before it.
    folders: &'static [&'static str],
    /// Names of floors below.
    may: &'static [&'static str],
}

const fn floor(name: &'static str, folders: &'static [&'static str], may: &'static [&'static str]) -> Floor {
    Floor { name, folders, may }
}

/// The floors of one crate, and what it may import of core.
struct House {
    name: &'static str,
    src: &'static str,
    floors: &'static [Floor],
    /// Folders of core that it may import; `None` for all of them.
    of_core: Option<&'static [&'static str]>,
    /// Files that still import a folder against the table. The list may only shrink.
    exceptions: &'static [(&'static str, &'static str)],
    /// Circles of files that are still there. The list, and each circle, may only shrink.
    circles: &'static [&'static [&'static str]],
}

const CORE: House = House {
    name: "mantissa-core",
    src: "core/src/",
    floors: &[
        floor("ground", &["error", "near", "dtype", "shape", "rng", "show", "par", "float"], &[]),
        floor("op", &["op"], &["ground"]),
        floor("program", &["program"], &["ground", "op"]),
        floor("backend", &["backend"], &["ground", "program"]),
        floor("cpu", &["cpu"], &["ground", "op", "program", "backend"]),
        floor("trace", &["trace"], &["ground", "op", "program"]),
        floor("layers", &["nn", "optim"], &["ground", "op", "program", "trace"]),
        floor("precision", &["precision"], &["ground", "op", "program", "trace", "layers"]),
        floor("data", &["data"], &["ground"]),
        floor("model", &["model"], &["ground", "program", "trace", "layers", "data"]),
        floor("telemetry", &["telemetry"], &["ground", "op"]),
        floor(
            "train",
            &["train"],
            &["ground", "op", "program", "backend", "trace", "layers", "precision", "data", "model", "telemetry"],
        ),
        floor("plan", &["plan"], &["ground", "op", "program", "precision", "model", "train"]),
        floor("diagnose", &["diagnose"], &["ground", "op", "program", "backend", "precision", "data", "telemetry", "train"]),
    ],
    of_core: None,
    exceptions: &[],
    circles: &[],
};

const WGPU: House = House {
    name: "mantissa-backend-wgpu",
    src: "backend-wgpu/src/",
    floors: &[
        floor("device", &["fault", "adapter", "gpu"], &[]),
        floor("launch", &["launch", "budget"], &[]),
        floor("dispatch", &["pipeline", "readback", "memory", "context", "dispatch"], &["device", "launch"]),
        floor("choice", &["profile", "tune"], &["device", "launch", "dispatch"]),
        floor("programs", &["bound", "observed", "timed", "executable"], &["device", "launch", "dispatch", "choice"]),
        floor("backend", &["peak", "backend", "blocking"], &["device", "launch", "dispatch", "choice", "programs"]),
    ],
    of_core: Some(&["error", "dtype", "shape", "float", "op", "program", "backend", "cpu"]),
    exceptions: &[],
    circles: &[],
};

const APP: House = House {
    name: "mantissa",
    src: "app/src/",
    floors: &[
        floor(
            "files",
            &[
                "out",
                "files",
                "append",
                "plain_file",
                "progress",
                "encoding",
                "digest",
                "tensor_file",
                "stop",
                "quiet",
                "process",
            ],
            &[],
        ),
        floor("settings", &["config", "watcher", "transcript", "console", "device", "banner"], &["files"]),
        floor("run folder", &["event_log", "run_folder", "run_log", "sinks"], &["files", "settings"]),
        floor("data", &["vocabulary", "data", "prefetch"], &["files", "settings"]),
        floor("checkpoint", &["checkpoint", "init_from"], &["files", "settings", "run folder", "data"]),
        floor(
            "work",
            &["findings", "profile", "predictions", "cast", "sample", "train"],
            &["files", "settings", "run folder", "data", "checkpoint"],
        ),
        floor("commands", &["cli"], &["files", "settings", "run folder", "data", "checkpoint", "work"]),
    ],
    of_core: None,
    exceptions: &[
        ("app/src/cast/encoder.rs", "cli"),
        ("app/src/cast/mod.rs", "cli"),
        ("app/src/cast/table.rs", "cli"),
        ("app/src/checkpoint/resume.rs", "cli"),
        ("app/src/config.rs", "cli"),
        ("app/src/device/list.rs", "cli"),
        ("app/src/sample.rs", "cli"),
        ("app/src/train.rs", "cli"),
        ("app/src/vocabulary.rs", "data"),
        ("app/src/vocabulary/pieces.rs", "data"),
        ("app/src/vocabulary/pieces/windows.rs", "data"),
        ("app/src/vocabulary/pieces_absent.rs", "data"),
    ],
    circles: &[&["cli::config_errors", "cli::overlay", "config"]],
};

const DASHBOARD: House = House {
    name: "mantissa-dashboard",
    src: "app/dashboard/src/",
    floors: &[
        floor("store", &["store"], &[]),
        floor("drawing", &["palette", "chart", "form"], &["store"]),
        floor("panels", &["panels", "shell"], &["store", "drawing"]),
        floor("window", &["desktop"], &["store", "drawing", "panels"]),
    ],
    of_core: Some(&["error", "dtype", "near", "show", "model", "plan", "precision", "telemetry", "train"]),
    exceptions: &[],
    circles: &[],
};

const HOUSES: [&House; 4] = [&CORE, &WGPU, &APP, &DASHBOARD];

impl House {
    /// Whether a file in `from` may import one in `to`.
    fn allows(&self, from: &str, to: &str) -> bool {
        let place =
            |folder: &str| self.floors.iter().find_map(|f| Some((f, f.folders.iter().position(|name| *name == folder)?)));
        let (Some((floor, at)), Some((target, target_at))) = (place(from), place(to)) else { return false };
        if floor.name == target.name { target_at <= at } else { floor.may.contains(&target.name) }
    }

    /// What the files of the crate do against its table.
    fn findings(&self, own: &Crate, core: &Crate) -> Vec<String> {
        let mut found = Vec::new();
        let known: BTreeSet<&str> = self.floors.iter().flat_map(|f| f.folders.iter().copied()).collect();
        let there = own.folders();
        found.extend(there.iter().filter(|f| !known.contains(f.as_str())).map(|f| format!("{}{f}: on no floor", self.src)));
        found.extend(known.iter().filter(|f| !there.contains(**f)).map(|f| format!("{}: no folder {f}", self.name)));
        let mut used = BTreeSet::new();
        for (from, to) in own.edges() {
            let (path, to) = (own.path(&from).to_string(), folder_of(&to).to_string());
            let exception = self.exceptions.iter().position(|(file, folder)| *file == path && *folder == to);
            match exception {
                _ if self.allows(folder_of(&from), &to) => {}
                Some(at) => {
                    used.insert(at);
                }
                None => found.push(format!("{path} imports {to}")),
            }
        }
        let stale = self.exceptions.iter().enumerate().filter(|(at, _)| !used.contains(at));
        found.extend(stale.map(|(_, (file, to))| format!("{file} no longer imports {to}: drop the exception")));
        let round = circles(&own.edges());
        let inside = |c: &[String], known: &[&str]| c.iter().all(|m| known.contains(&m.as_str()));
        let new = round.iter().filter(|c| !self.circles.iter().any(|known| inside(c, known)));
        found.extend(new.map(|c| format!("{}: a circle of {}", self.name, c.join(", "))));
        let gone = self.circles.iter().filter(|known| !round.iter().any(|c| inside(c, known) && c.len() == known.len()));
        found.extend(gone.map(|known| format!("{}: no longer a circle of {}", self.name, known.join(", "))));
        if let Some(may) = self.of_core {
            let foreign = own.mentions("mantissa_core", core).into_iter().filter(|(_, to)| !may.contains(&to.as_str()));
            found.extend(foreign.map(|(path, to)| format!("{path} imports mantissa_core::{to}")));
        }
        found.dedup();
        found
    }

    /// The table as Markdown.
    fn table(&self) -> String {
        let code = |names: &[&str]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" ");
        let mut out = format!("| `{}` | each may import those before it, and the floors |\n| --- | --- |\n", self.src);
        for f in self.floors {
            let (folders, may) = (code(f.folders), f.may.join(", "));
            let named = if f.folders == [f.name] { folders } else { format!("{}: {folders}", f.name) };
            out += &format!("| {named} | {may} |\n");
        }
        if let Some(may) = self.of_core {
            out += &format!("| of `core/src/` | {} |\n", code(may));
        }
        out
    }
}

const BEGIN: &str = "<!-- floors: written by tests/tidy -->\n";
const END: &str = "<!-- /floors -->\n";

#[test]
fn every_import_goes_down_a_floor() {
    let files = files();
    let core = Crate::read(&files, CORE.src);
    let found = HOUSES.iter().flat_map(|house| house.findings(&Crate::read(&files, house.src), &core));
    clean("imports go down, and in no circle (tests/tidy/floors.rs)", found.collect());
}

#[test]
fn the_document_holds_the_tables_of_floors() {
    let text = read("ARCHITECTURE.md");
    let (before, rest) = text.split_once(BEGIN).expect("ARCHITECTURE.md has the mark where tables begin");
    let (block, after) = rest.split_once(END).expect("ARCHITECTURE.md has the mark where tables end");
    let tables: Vec<String> = HOUSES.iter().map(|house| house.table()).collect();
    let tables = format!("\n{}\n", tables.join("\n"));
    if std::env::var_os("UPDATE_TIDY").is_some() {
        let path = root().join("ARCHITECTURE.md");
        std::fs::write(path, format!("{before}{BEGIN}{tables}{END}{after}")).expect("ARCHITECTURE.md can be written");
    } else {
        assert!(block == tables, "ARCHITECTURE.md holds other tables of floors; UPDATE_TIDY=1 writes them anew:\n{tables}");
    }
}

#[test]
fn imports_upward_and_circles_are_seen() {
    use crate::repository::File;
    let core = |files: &[(&str, &str)]| {
        let files: Vec<File> = files.iter().map(|(path, text)| File::of(&format!("core/src/{path}"), text)).collect();
        let own = Crate::read(&files, "core/src/");
        let found = CORE.findings(&own, &own);
        let told = |f: &String| f.contains(" imports ") || f.contains(": a circle") || f.contains("on no floor");
        found.into_iter().filter(told).filter(|f| !f.contains("no longer")).collect::<Vec<_>>()
    };
    let upward =
        core(&[("op/mod.rs", ""), ("op/x.rs", "use crate::program::Program;\n"), ("program/mod.rs", "use crate::op::x::X;\n")]);
    assert_eq!(upward, ["core/src/op/x.rs imports program", "mantissa-core: a circle of op::x, program"]);
    assert_eq!(core(&[("shape.rs", "use crate::float::F;\n"), ("float/mod.rs", "")]), ["core/src/shape.rs imports float"]);
    assert_eq!(core(&[("cpu/x.rs", "fn f() -> crate::op::Op {}\n"), ("op/mod.rs", "")]), [] as [&str; 0]);
    assert_eq!(core(&[("new.rs", "")]), ["core/src/new: on no floor"]);
    let foreign = [File::of("app/dashboard/src/form.rs", "use mantissa_core::cpu::CpuBackend;\n")];
    let core_files = [File::of("core/src/cpu/mod.rs", "")];
    let mentioned = DASHBOARD.findings(&Crate::read(&foreign, "app/dashboard/src/"), &Crate::read(&core_files, "core/src/"));
    assert!(mentioned.contains(&"app/dashboard/src/form.rs imports mantissa_core::cpu".to_string()), "{mentioned:?}");
}
