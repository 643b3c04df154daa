//! The system's file dialogs. They answer later, from a thread that waits for them, so that the window goes on
//! meanwhile.

use anyhow::{Context, Result};
use rfd::AsyncFileDialog;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

/// What was chosen, and for what.
#[derive(Debug)]
pub(super) enum Chosen {
    /// Data to train on.
    Data(PathBuf),
    /// A run to open.
    Run(PathBuf),
    /// Nothing: the dialog was closed, or there is none here. The two look alike.
    Nothing,
}

/// Asks for a text, token or image file.
pub(super) fn data(to: Sender<Chosen>) -> Result<()> {
    let dialog = AsyncFileDialog::new().set_title("Data to train on").pick_file();
    wait(async move { dialog.await.map(|f| Chosen::Data(f.path().into())) }, to)
}

/// Asks for the folder of a run.
pub(super) fn run(to: Sender<Chosen>) -> Result<()> {
    let dialog = AsyncFileDialog::new().set_title("Folder of a run").pick_folder();
    wait(async move { dialog.await.map(|f| Chosen::Run(f.path().into())) }, to)
}

fn wait(answer: impl Future<Output = Option<Chosen>> + Send + 'static, to: Sender<Chosen>) -> Result<()> {
    let work = move || {
        // The window may be gone by now.
        let _ = to.send(pollster::block_on(answer).unwrap_or(Chosen::Nothing));
    };
    std::thread::Builder::new().name("mantissa-dialog".into()).spawn(work).context("cannot open the dialog")?;
    Ok(())
}
