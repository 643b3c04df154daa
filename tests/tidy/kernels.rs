//! Every operation has its kernel files, and every kernel its operation.

use crate::repository::{clean, files, read, root};

/// Name and kernel stem of every row of the Op table.
fn op_table(text: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let mut parts = line.split_once("=> row(\"")?.1.split('"');
        Some((parts.next()?.to_string(), parts.nth(1)?.to_string()))
    };
    text.lines().filter_map(row).collect()
}

/// Stems without a kernel file, and why.
const NO_KERNEL: [(&str, &str); 3] = [
    ("reshape", "no data moves: the memory plan makes it a view"),
    ("zero", "a fill of bytes, in dispatch"),
    ("record", "the store of one scalar, in dispatch"),
];

/// Kernels that belong to no operation.
const NO_OPERATION: [(&str, &str); 10] = [
    ("attention_subgroup", "attention where subgroups have eight lanes"),
    ("cast_list", "the casts of many parameters in one launch"),
    ("f16_probe", "whether a device decodes f16 as the CPU does"),
    ("matmul_pack", "the operands of matmul_panels"),
    ("matmul_panels", "matmul by subgroups, of operands packed into panels"),
    ("matmul_shared", "matmul for GPUs"),
    ("matmul_subgroup", "matmul by subgroups"),
    ("peak", "peak rates of a device"),
    ("subgroup_probe", "whether subgroups are what kernels take them for"),
    ("words64", "no kernel: part of the prelude for software adapters"),
];

#[test]
fn every_kernel_stem_has_its_file() {
    let table = op_table(&read("core/src/op/table.rs"));
    assert!(table.len() >= 30, "read only {} rows of the Op table", table.len());
    let exists = |stem: &str| root().join(format!("core/src/cpu/{stem}.rs")).is_file();
    let excepted = |stem: &str| NO_KERNEL.iter().any(|(s, _)| *s == stem);
    let missing = table.iter().filter(|(_, stem)| !exists(stem) && !excepted(stem));
    clean("stems without core/src/cpu/<stem>.rs", missing.map(|(op, stem)| format!("{op}: {stem}")).collect());
    let stale = NO_KERNEL.iter().filter(|(s, _)| exists(s) || !table.iter().any(|(_, stem)| stem == s));
    clean("exceptions that are none", stale.map(|(s, why)| format!("{s} ({why})")).collect());
}

#[test]
fn every_kernel_stem_has_its_wgsl() {
    let table = op_table(&read("core/src/op/table.rs"));
    let exists = |stem: &str| ["wgsl", "wgsl.in"].iter().any(|end| root().join(format!("shaders/wgsl/{stem}.{end}")).is_file());
    let missing = table.iter().filter(|(_, stem)| stem != "reshape" && !exists(stem));
    clean("stems without shaders/wgsl/<stem>.wgsl", missing.map(|(op, stem)| format!("{op}: {stem}")).collect());
    let stems: Vec<String> =
        files().iter().filter_map(|f| Some(f.path.strip_prefix("shaders/wgsl/")?.strip_suffix(".wgsl")?.to_string())).collect();
    let known = |stem: &String| table.iter().any(|(_, s)| s == stem) || NO_OPERATION.iter().any(|(s, _)| s == stem);
    let stems = stems.iter().map(|s| s.strip_prefix("software/").unwrap_or(s).to_string());
    let strange = stems.filter(|s| !s.contains('/') && !known(s));
    clean("kernels of no operation", strange.collect());
}

#[test]
fn rows_of_the_table_are_read() {
    assert_eq!(
        op_table("Op::Zero => row(\"zero\", \"zero_stem\", Keep, UPDATE),"),
        [("zero".to_string(), "zero_stem".to_string())]
    );
}
