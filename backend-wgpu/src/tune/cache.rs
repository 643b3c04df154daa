//! Choices on disk, in a folder that the caller names: one JSON file for each adapter, driver and text of the kernels.
//! A file that is missing, damaged or of other contents counts as none; if one cannot be written, the next run measures
//! again.

use crate::adapter::AdapterFacts;
use crate::launch::MatmulKernel;
use mantissa_shaders::Prelude;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Stems whose text decides the speed of matmuls.
const STEMS: [&str; 5] = ["matmul", "matmul_pack", "matmul_panels", "matmul_shared", "matmul_subgroup"];

/// The file of an adapter in a folder, for kernels behind a prelude.
pub(super) fn file(folder: &Path, facts: &AdapterFacts, prelude: Prelude) -> PathBuf {
    let hashes = STEMS.iter().filter_map(|s| mantissa_shaders::stem(s)).map(|s| format!("{:x}", s.hash));
    let what = [facts.name.clone(), facts.api.clone(), facts.driver.clone(), format!("{prelude:?}")]
        .into_iter()
        .chain(hashes)
        .collect::<Vec<_>>()
        .join("\n");
    // 64-bit FNV-1a.
    let hash = what.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    folder.join(format!("matmul-{hash:016x}.json"))
}

/// Choices of an earlier run, but for kernels that the device cannot run.
pub(super) fn load(path: &Path, kernels: &[MatmulKernel]) -> BTreeMap<String, MatmulKernel> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let named: BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
    let kernel = |name: String| kernels.iter().copied().find(|k| k.to_string() == name);
    named.into_iter().filter_map(|(class, name)| Some((class, kernel(name)?))).collect()
}

/// Keeps choices for later runs. Errs if the file cannot be written.
pub(super) fn store(path: &Path, choices: &BTreeMap<String, MatmulKernel>) -> std::io::Result<()> {
    let named: BTreeMap<&String, String> = choices.iter().map(|(class, kernel)| (class, kernel.to_string())).collect();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, serde_json::to_vec_pretty(&named)?)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_shaders::F16Decoding;

    #[test]
    fn every_fact_of_a_device_has_a_file_of_its_own() {
        let usual = AdapterFacts {
            name: "a".into(),
            api: "vulkan".into(),
            driver: "1".into(),
            software: false,
            max_buffer_bytes: 0,
            max_storage_buffers: 8,
            workgroup_bytes: 0,
            workgroup_invocations: 256,
            subgroup: None,
            converts_f16: true,
            features: Vec::new(),
        };
        let path = |facts: AdapterFacts, prelude| file(Path::new("folder"), &facts, prelude);
        let paths = [
            path(usual.clone(), Prelude::default()),
            path(usual.clone(), Prelude { f16: F16Decoding::Unpack, ..Prelude::default() }),
            path(AdapterFacts { name: "b".into(), ..usual.clone() }, Prelude::default()),
            path(AdapterFacts { api: "gl".into(), ..usual.clone() }, Prelude::default()),
            path(AdapterFacts { driver: "2".into(), ..usual.clone() }, Prelude::default()),
        ];
        for (i, path) in paths.iter().enumerate() {
            assert!(path.starts_with("folder") && !paths[..i].contains(path), "{i}: {path:?}");
        }
        assert_eq!(paths[0], path(usual, Prelude::default()));
    }

    #[test]
    fn choices_come_back_and_damage_is_no_file() {
        let path = std::env::temp_dir().join(format!("mantissa-tune-{}", std::process::id())).join("matmul.json");
        let kernels = [MatmulKernel::Subgroups(8), MatmulKernel::Registers];
        let choices: BTreeMap<String, MatmulKernel> = [("a".to_string(), kernels[1]), ("b".to_string(), kernels[0])].into();
        assert!(load(&path, &kernels).is_empty());
        store(&path, &choices).unwrap();
        assert_eq!(load(&path, &kernels), choices);
        // A kernel that the device cannot run any more.
        assert_eq!(load(&path, &kernels[..1]).into_keys().collect::<Vec<_>>(), ["b"]);
        for damaged in ["", "{\"a\": \"regis", "[1, 2]", "{\"a\": \"magic\"}"] {
            fs::write(&path, damaged).unwrap();
            assert!(load(&path, &kernels).is_empty(), "{damaged}");
        }
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
