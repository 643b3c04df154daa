//! Choices on disk: one JSON file for each adapter, driver and text of the kernels. A file that is missing, damaged or of other contents is no
//! file; one that cannot be written is measured again next time.

use crate::adapter::{AdapterFacts, Products};
use mantissa_shaders::Dialect;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Folder of the files; overrides the platform's.
const FOLDER: &str = "MANTISSA_CACHE_DIR";

/// Stems whose text decides the speed of products.
const STEMS: [&str; 5] = ["matmul", "matmul_pack", "matmul_panels", "matmul_shared", "matmul_subgroup"];

/// Where files lie, if the platform says.
pub(crate) fn folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || set("HOME");
    let platform = || {
        if cfg!(windows) {
            set("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            home().map(|h| h.join("Library/Caches"))
        } else {
            set("XDG_CACHE_HOME").or_else(|| home().map(|h| h.join(".cache")))
        }
    };
    set(FOLDER).or_else(|| Some(platform()?.join("mantissa")))
}

/// The file of an adapter in a folder, for kernels in a dialect.
pub(super) fn file(folder: &Path, facts: &AdapterFacts, dialect: Dialect) -> PathBuf {
    let hashes = STEMS.iter().filter_map(|s| mantissa_shaders::stem(s)).map(|s| format!("{:x}", s.hash));
    let what = [facts.name.clone(), facts.api.clone(), facts.driver.clone(), format!("{dialect:?}")]
        .into_iter()
        .chain(hashes)
        .collect::<Vec<_>>()
        .join("\n");
    // 64-bit FNV-1a.
    let hash = what.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    folder.join(format!("products-{hash:016x}.json"))
}

/// Choices of an earlier run, those of kinds that the device can do.
pub(super) fn load(path: &Path, kinds: &[Products]) -> BTreeMap<String, Products> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let named: BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
    let kind = |name: String| kinds.iter().copied().find(|k| k.to_string() == name);
    named.into_iter().filter_map(|(class, name)| Some((class, kind(name)?))).collect()
}

/// Keeps choices for later runs.
pub(super) fn store(path: &Path, choices: &BTreeMap<String, Products>) -> std::io::Result<()> {
    let named: BTreeMap<&String, String> = choices.iter().map(|(class, kind)| (class, kind.to_string())).collect();
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
    use mantissa_shaders::F16;

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
        let path = |facts: AdapterFacts, dialect| file(Path::new("folder"), &facts, dialect);
        let paths = [
            path(usual.clone(), Dialect::default()),
            path(usual.clone(), Dialect { f16: F16::Unpack, ..Dialect::default() }),
            path(AdapterFacts { name: "b".into(), ..usual.clone() }, Dialect::default()),
            path(AdapterFacts { api: "gl".into(), ..usual.clone() }, Dialect::default()),
            path(AdapterFacts { driver: "2".into(), ..usual.clone() }, Dialect::default()),
        ];
        for (i, path) in paths.iter().enumerate() {
            assert!(path.starts_with("folder") && !paths[..i].contains(path), "{i}: {path:?}");
        }
        assert_eq!(paths[0], path(usual, Dialect::default()));
    }

    #[test]
    fn choices_come_back_and_damage_is_no_file() {
        let path = env::temp_dir().join(format!("mantissa-tune-{}", std::process::id())).join("products.json");
        let kinds = [Products::Subgroups(8), Products::Registers];
        let choices: BTreeMap<String, Products> = [("a".to_string(), kinds[1]), ("b".to_string(), kinds[0])].into();
        assert!(load(&path, &kinds).is_empty());
        store(&path, &choices).unwrap();
        assert_eq!(load(&path, &kinds), choices);
        // A kind that the device cannot do any more.
        assert_eq!(load(&path, &kinds[..1]).into_keys().collect::<Vec<_>>(), ["b"]);
        for damaged in ["", "{\"a\": \"regis", "[1, 2]", "{\"a\": \"magic\"}"] {
            fs::write(&path, damaged).unwrap();
            assert!(load(&path, &kinds).is_empty(), "{damaged}");
        }
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
