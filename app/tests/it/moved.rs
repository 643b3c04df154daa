//! A run is where its folder is: it goes on from any place, with its data wherever they are now.

use super::{good, output, stderr, stdout, train};
use std::fs;

const TEXT: &str = "some text to learn from\n";

#[test]
fn a_run_goes_on_from_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["a", "b", "elsewhere"] {
        fs::create_dir(at(folder)).unwrap();
    }
    fs::write(at("a/notes.txt"), TEXT.repeat(200)).unwrap();
    good(train(&at("a"), &["--data", "notes.txt", "--steps", "2", "--out", "r"]));
    let resume = |from: &str, args: &[&str]| output(&at(from), &[&["train", "--resume"], args].concat());
    let unchanged = |o: &std::process::Output| assert!(!stderr(o).contains("bit for bit"), "{}", stderr(o));
    // From another folder, where another file has the same name.
    fs::write(at("elsewhere/notes.txt"), "other\n".repeat(200)).unwrap();
    unchanged(&good(resume("elsewhere", &["../a/r", "--steps", "3"])));
    // Everything moved at once; then the data alone, beside whoever goes on.
    fs::rename(at("a"), at("c")).unwrap();
    unchanged(&good(resume("elsewhere", &["../c/r", "--steps", "4"])));
    fs::rename(at("c/notes.txt"), at("b/notes.txt")).unwrap();
    unchanged(&good(resume("b", &["../c/r", "--steps", "5"])));
    // Nowhere to be found: what was tried is named, and the file of that name which holds something else.
    let o = resume("elsewhere", &["../c/r", "--steps", "6"]);
    assert_eq!(o.status.code(), Some(2), "{}", stderr(&o));
    for part in ["--data PATH", "a/notes.txt (not there)", "notes.txt (other data: 1200 bytes", "c/r/notes.txt"] {
        assert!(stderr(&o).contains(part), "expected {part:?} in {}", stderr(&o));
    }
    // The same data under another path, and other data.
    let o = resume("elsewhere", &["../c/r", "--steps", "6", "--data", "notes.txt"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("run.data: expected 4800 bytes"), "{}", stderr(&o));
    unchanged(&good(resume("elsewhere", &["../c/r", "--steps", "6", "--data", "../b/notes.txt"])));
    // It is remembered.
    unchanged(&good(resume("b", &["../c/r", "--steps", "7"])));
    // Those who look into a run find its data, too.
    let o = good(output(dir.path(), &["doctor", "c/r", "--steps", "1"]));
    assert!(!stderr(&o).contains("no steps were run") && stdout(&o).contains("observed  1 step"), "{}", stdout(&o));
}

#[cfg(feature = "tokenizer")]
#[test]
fn a_run_keeps_its_tokenizer() {
    use super::data::TOKENIZER;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.json");
    fs::write(dir.path().join("notes.txt"), "to be or not to be ".repeat(200)).unwrap();
    fs::write(&file, TOKENIZER).unwrap();
    good(train(dir.path(), &["--data", "notes.txt", "--tokenizer", "t.json", "--steps", "2", "--out", "r"]));
    let resume = |args: &[&str]| output(dir.path(), &[&["train", "--resume", "r"], args].concat());
    fs::rename(&file, dir.path().join("moved.json")).unwrap();
    let o = good(resume(&["--steps", "3"]));
    assert!(!stderr(&o).contains("bit for bit"), "{}", stderr(&o));
    good(resume(&["--steps", "4", "--tokenizer", "moved.json"]));
    fs::write(&file, TOKENIZER.replace("not", "now")).unwrap();
    let o = resume(&["--steps", "5", "--tokenizer", "t.json"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("run.tokenizer: expected "), "{}", stderr(&o));
    fs::remove_file(dir.path().join("moved.json")).unwrap();
    fs::remove_file(dir.path().join("r/tokenizer.json")).unwrap();
    let o = resume(&["--steps", "5"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("tried r/tokenizer.json"), "{}", stderr(&o));
}
