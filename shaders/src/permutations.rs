//! Every stem behind every prelude, with its defaults and with every constant moved away from its default in turn:
//! valid, and bound as the table says.

use crate::validate::validate;
use crate::{F16Decoding, Need, Prelude, STEMS, Stem, Vec8Access};

const PRELUDES: [Prelude; 4] = [
    Prelude { f16: F16Decoding::Integers, vec8: Vec8Access::Vectors },
    Prelude { f16: F16Decoding::Unpack, vec8: Vec8Access::Vectors },
    Prelude { f16: F16Decoding::Integers, vec8: Vec8Access::Words64 },
    Prelude { f16: F16Decoding::Unpack, vec8: Vec8Access::Words64 },
];

/// Checks the kernel of a stem with constants set.
#[track_caller]
fn check(prelude: Prelude, stem: &Stem, constants: &[(&str, u32)]) {
    let text = prelude.text() + &stem.stitch(constants).expect("a value of its domain");
    let int64 = stem.needs.contains(&Need::Int64) || prelude.vec8 == Vec8Access::Words64;
    if let Err(problem) = validate(&text, stem.needs.contains(&Need::Subgroups), int64) {
        panic!("{} as {prelude:?} with {constants:?}: {problem}", stem.name);
    }
}

#[test]
fn defaults_are_valid_behind_every_prelude() {
    for prelude in PRELUDES {
        for stem in STEMS {
            check(prelude, stem, &[]);
        }
    }
}

#[test]
fn every_value_of_every_constant_is_valid() {
    // Functions of a prelude know of no constant: the default and the one that needs most are enough.
    for prelude in [PRELUDES[0], PRELUDES[3]] {
        for stem in STEMS {
            for constant in stem.consts {
                let others = constant.domain.iter().filter(|value| **value != constant.default);
                others.for_each(|value| check(prelude, stem, &[(constant.name, *value)]));
            }
        }
    }
}

#[test]
fn a_mistake_behind_a_constant_is_seen() {
    let text = "const WIDE: bool = true;\n@compute @workgroup_size(1) fn f() { if (WIDE) { let x: u32 = 1.5; } }";
    assert!(validate(text, false, false).is_err());
    assert!(validate(&text.replace("1.5", "1u"), false, false).is_ok());
}

#[test]
fn workgroups_are_found_by_the_index_that_any_grid_gives() {
    for stem in STEMS {
        assert!(!stem.source.contains("global_invocation_id"), "{}: a grid may be folded, see shared/grid.wgsl", stem.name);
        let by_hand = stem.source.lines().filter(|line| line.contains("groups.x") && !line.starts_with("return group.x"));
        assert_eq!(by_hand.collect::<Vec<_>>(), Vec::<&str>::new(), "{}: group_index of shared/grid.wgsl", stem.name);
    }
}
