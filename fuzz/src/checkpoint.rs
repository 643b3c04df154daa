//! Checkpoint folders with one file replaced by any bytes, its checksums mended or not. Reading one refuses it, or
//! restores a run whose values are all there.

use mantissa_app::checkpoint::parts::Parts;
use mantissa_app::checkpoint::state::{RunFingerprint, State};
use mantissa_app::checkpoint::{DONE, MODEL, OPTIM, STATE, model, read, write};
use mantissa_app::digest::Digest;
use mantissa_core::cpu::CpuBackend;
use mantissa_core::diagnose::health::HealthState;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::mlp::MlpConfig;
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::train::Session;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

/// Files of a checkpoint, in the order of the first byte of a case.
const FILES: [&str; 5] = [DONE, STATE, MODEL, model::CONFIG, OPTIM];
/// Set in the first byte: checksums are made to fit, so that what is behind them is reached.
const MEND: u8 = 0x80;

/// A small f16 run, its checkpoint, and a folder to damage.
struct Run {
    session: Session,
    /// Contents of [`FILES`].
    whole: [Vec<u8>; 5],
    damaged: PathBuf,
    _dir: tempfile::TempDir,
}

static RUN: LazyLock<Mutex<Run>> = LazyLock::new(|| Mutex::new(Run::new()));

impl Run {
    fn new() -> Run {
        let model = ModelConfig::Mlp(MlpConfig { inputs: 3, hidden: vec![2], classes: 2 });
        let session = Session::new(Arc::new(CpuBackend::new()), super::malformed::config(model, RecipeName::F16));
        let session = session.expect("a valid run");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let around = RunFingerprint { device: "none".into(), data: Digest { bytes: 0, crc32: 0 } };
        let written = write::save(dir.path(), &session, &HealthState::default(), &around, 0).expect("the folder is writable");
        let whole = FILES.map(|name| fs::read(written.path.join(name)).expect("a whole checkpoint"));
        let damaged = dir.path().join("damaged");
        fs::create_dir(&damaged).expect("the folder is writable");
        Run { session, whole, damaged, _dir: dir }
    }

    fn damage(&self, at: usize, contents: &[u8], mend: bool) {
        let put = |name: &str, bytes: &[u8]| fs::write(self.damaged.join(name), bytes).expect("the folder is writable");
        for (i, name) in FILES.iter().enumerate() {
            put(name, if i == at { contents } else { &self.whole[i] });
        }
        if mend && FILES[at] != DONE {
            let mut state = if FILES[at] == STATE { contents.to_vec() } else { self.whole[1].clone() };
            if FILES[at] != STATE {
                let mut parsed = State::from_json(&state).expect("as written");
                parsed.files.insert(FILES[at].into(), Digest::of(contents));
                state = parsed.to_json().expect("a state can be written").into_bytes();
                put(STATE, &state);
            }
            put(DONE, &serde_json::to_vec(&Digest::of(&state)).expect("a checksum can be written"));
        }
    }
}

/// The valid cases: every file as it was written, with and without its checksums mended.
pub fn whole_checkpoints() -> Vec<Vec<u8>> {
    let run = RUN.lock().expect("no reader panics");
    let case = |i: usize, mend: u8| [&[i as u8 | mend], &run.whole[i][..]].concat();
    (0..FILES.len()).flat_map(|i| [case(i, 0), case(i, MEND)]).collect()
}

/// A checkpoint of which the first byte picks a file and the others are its contents; and these as the index of a model
/// in parts.
pub fn checkpoint(data: &[u8]) {
    let Some((&first, contents)) = data.split_first() else { return };
    let mut run = RUN.lock().expect("no reader panics");
    run.damage(usize::from(first & !MEND) % FILES.len(), contents, first & MEND != 0);
    let dir: &Path = &run.damaged.clone();
    if let Ok(state) = read::state(dir)
        && read::restore(dir, &state, &mut run.session).is_ok()
    {
        assert_eq!(run.session.steps(), state.step);
    }
    let parts = dir.join("parts");
    fs::create_dir_all(&parts).expect("the folder is writable");
    fs::write(parts.join(mantissa_app::checkpoint::parts::INDEX), contents).expect("the folder is writable");
    let _ = Parts::open(&parts);
    let _ = model::read_hf_config(dir);
}
