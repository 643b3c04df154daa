//! Hashes the sources of the CPU kernels and number formats, so that a run can say which arithmetic made it.

use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let mut files = Vec::new();
    for dir in ["src/cpu", "src/float", "src/par"] {
        println!("cargo::rerun-if-changed={dir}");
        collect(Path::new(dir), &mut files)?;
    }
    files.sort();
    // FNV-1a, 64 bits: stable across machines and compilers.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| bytes.iter().for_each(|b| hash = (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    add(env!("CARGO_PKG_VERSION").as_bytes());
    for file in files {
        add(file.to_string_lossy().replace('\\', "/").as_bytes());
        // Line ends may differ between checkouts.
        add(&std::fs::read(&file)?.into_iter().filter(|b| *b != b'\r').collect::<Vec<u8>>());
    }
    println!("cargo::rustc-env=MANTISSA_KERNEL_SET={hash:016x}");
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
