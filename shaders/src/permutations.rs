//! Every stem in every dialect, with its defaults and with every constant moved away from its default in turn: valid, and bound as the table says.

use crate::validate::validate;
use crate::{Dialect, Eights, F16, Need, STEMS, Stem};

const DIALECTS: [Dialect; 4] = [
    Dialect { f16: F16::Integers, eights: Eights::Vectors },
    Dialect { f16: F16::Unpack, eights: Eights::Vectors },
    Dialect { f16: F16::Integers, eights: Eights::Words64 },
    Dialect { f16: F16::Unpack, eights: Eights::Words64 },
];

/// Checks the kernel of a stem with constants set.
#[track_caller]
fn check(dialect: Dialect, stem: &Stem, constants: &[(&str, u32)]) {
    let text = dialect.text() + &stem.stitch(constants).expect("a value of its domain");
    let int64 = stem.needs.contains(&Need::Int64) || dialect.eights == Eights::Words64;
    if let Err(problem) = validate(&text, stem.needs.contains(&Need::Subgroups), int64) {
        panic!("{} as {dialect:?} with {constants:?}: {problem}", stem.name);
    }
}

#[test]
fn defaults_are_valid_in_every_dialect() {
    for dialect in DIALECTS {
        for stem in STEMS {
            check(dialect, stem, &[]);
        }
    }
}

#[test]
fn every_value_of_every_constant_is_valid() {
    // A constant meets a dialect only in functions that do not know of each other: that of every device and the one that has most.
    for dialect in [DIALECTS[0], DIALECTS[3]] {
        for stem in STEMS {
            for constant in stem.consts {
                let others = constant.domain.iter().filter(|value| **value != constant.default);
                others.for_each(|value| check(dialect, stem, &[(constant.name, *value)]));
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
