//! `mantissa cast` from outside.

use super::{good, listing, output, stderr, stdout};
use mantissa_core::{DType, Overflow, float};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// Saves one f32 tensor `w`.
fn save(path: &Path, x: &[f32]) {
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![x.len()], &bytes).expect("a view");
    std::fs::write(path, safetensors::serialize([("w", view)], None).expect("a file")).expect("written");
}

/// Type and bytes of the tensor `w`.
fn load(path: &Path) -> (Dtype, Vec<u8>) {
    let bytes = std::fs::read(path).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let view = file.tensor("w").expect("the tensor");
    (view.dtype(), view.data().to_vec())
}

#[test]
fn a_table_shows_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let text = stdout(&good(output(dir.path(), &["cast", "0.1", "300", "1e-9", "-70000"])));
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 1 + 4 * 7);
    assert_eq!(rows[0], ["number", "format", "bits", "value", "rel_error", "spacing", "notes"]);
    let row = |number: &str, format: &str| rows.iter().find(|r| r[0] == number && r[1] == format).unwrap()[2..].join(" ");
    assert_eq!(row("0.1", "bf16"), "0x3dcd 0.100097656 9.77e-4 0.00048828125");
    assert_eq!(row("300", "e4m3"), "0x79 288 4.00e-2 32");
    assert_eq!(row("1e-9", "f16"), "0x0000 0 1.00e0 5.96046448e-8 underflow");
    assert_eq!(row("-70000", "e4m3"), "0xfe -448 9.94e-1 32 saturated");
    assert_eq!(row("-70000", "f16"), "0xfc00 -inf - - overflow");
}

#[test]
fn tensors_go_through_every_format_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let x: Vec<f32> = (0..300).map(|i| (i as f32 - 150.0) * 1.7f32.powi(i % 30 - 15)).collect();
    save(&dir.path().join("x.safetensors"), &x);
    for (dtype, stored) in [
        (DType::E4m3, Dtype::F8_E4M3),
        (DType::E5m2, Dtype::F8_E5M2),
        (DType::E8m0, Dtype::F8_E8M0),
        (DType::F16, Dtype::F16),
        (DType::Bf16, Dtype::BF16),
        (DType::Tf32, Dtype::F32),
    ] {
        for (mode, overflow) in [("saturate", Overflow::Saturate), ("ieee", Overflow::Ieee)] {
            let name = dtype.name();
            good(output(dir.path(), &["cast", "--force", "--to", name, "--mode", mode, "x.safetensors", "y.safetensors"]));
            let (found, codes) = load(&dir.path().join("y.safetensors"));
            assert_eq!((found, codes.len()), (stored, x.len() * dtype.size_bytes()), "{dtype}");
            good(output(dir.path(), &["cast", "--force", "--from", name, "y.safetensors", "z.safetensors"]));
            let (found, back) = load(&dir.path().join("z.safetensors"));
            assert_eq!(found, Dtype::F32);
            for (bytes, &x) in back.chunks_exact(4).zip(&x) {
                let want = float::decode(dtype, float::encode(dtype, overflow, x));
                assert_eq!(u32::from_le_bytes(bytes.try_into().unwrap()), want.to_bits(), "{dtype} {mode} {x}");
            }
        }
    }
    assert_eq!(listing(dir.path()), ["x.safetensors", "y.safetensors", "z.safetensors"]);
}

#[test]
fn scale_rules_and_random_rounding_differ_from_rounding_to_nearest() {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("x"), &[3.0; 100]);
    let cast = |flags: &[&str]| {
        good(output(dir.path(), &[&["cast", "--force"], flags, &["x", "y"]].concat()));
        load(&dir.path().join("y")).1
    };
    assert_eq!(cast(&["--to", "e8m0", "--scale-rule", "floor"]), [128; 100]);
    assert_eq!(cast(&["--to", "e8m0", "--scale-rule", "ceil"]), [129; 100]);
    save(&dir.path().join("x"), &[1.0625; 100]);
    let random = |seed| cast(&["--to", "e4m3", "--mode", "stochastic", "--seed", seed]);
    let ones = random("1").iter().filter(|&&c| c == 0x38).count();
    assert!((20..80).contains(&ones), "{ones} of 100 rounded down half-way");
    assert_eq!(random("1"), random("1"));
    assert_ne!(random("1"), random("2"));
}

#[test]
fn wrong_files_and_flags_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("x"), &[1.0; 50]);
    let bytes = std::fs::read(dir.path().join("x")).unwrap();
    std::fs::write(dir.path().join("cut"), &bytes[..bytes.len() - 1]).unwrap();
    std::fs::write(dir.path().join("lie"), [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).unwrap();
    let before = listing(dir.path());
    for (args, part) in [
        (&["--to", "e4m3", "cut", "y"][..], "truncated"),
        (&["--to", "e4m3", "lie", "y"], "claims 18446744073709551615"),
        (&["--to", "e4m3", "none", "y"], "none"),
        (&["--to", "e4m3", ".", "y"], "expected a file"),
        (&["--to", "e4m3", "x"], "two files"),
        (&["--to", "fp8", "x", "y"], "e4m3, e5m2, e8m0"),
        (&["--from", "f16", "x", "y"], "expected a tensor of F16 (f16 codes), found F32 only"),
        (&["--to", "f16", "--seed", "1", "x", "y"], "--mode stochastic"),
        (&["--to", "f16", "--scale-rule", "ceil", "x", "y"], "--to e8m0"),
        (&["--to", "f16", "--from", "f16", "x", "y"], "--from"),
        (&["abc"], "expected numbers"),
        (&["--to", "e4m3", "x", "no/such/folder/y"], "no/such/folder/y"),
        (&["--to", "e4m3", "x", "x"], "found the same"),
        (&["--to", "e4m3", "--force", "x", "./x"], "found the same"),
        (&["--to", "e4m3", "x", "lie"], "--force replaces it"),
        (&["--to", "e4m3", "--force", "x", "."], "found a folder"),
        (&["--to", "e4m3", "--force", "x", "/dev/null"], "found a device"),
    ] {
        let o = output(dir.path(), &[&["cast"], args].concat());
        let message = stderr(&o);
        assert_eq!(o.status.code(), Some(2), "{args:?}: {message}");
        assert!(message.starts_with("error: ") && message.contains(part), "{args:?}: {message}");
        assert_eq!(listing(dir.path()), before, "{args:?}");
    }
    assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), bytes);
}
