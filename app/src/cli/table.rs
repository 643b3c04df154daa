//! Tables of reports: as wide as their cells, two spaces apart, without lines.

pub use comfy_table::CellAlignment::{self, Left, Right};

use comfy_table::presets::NOTHING;

/// Spaces between columns.
const GAP: u16 = 2;

/// Rows below a header, each line indented by `indent` columns and ended. A column is headed and aligned as `columns`
/// say; cells keep their spaces.
pub fn table<const N: usize>(
    indent: u16,
    columns: [(&str, CellAlignment); N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(NOTHING);
    if columns.iter().any(|(head, _)| !head.is_empty()) {
        table.set_header(columns.map(|(head, _)| head));
    }
    table.add_rows(rows);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if i == 0 { indent } else { 0 }, GAP));
        if let Some((_, alignment)) = columns.get(i) {
            column.set_cell_alignment(*alignment);
        }
    }
    // Without the gap behind the last column.
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [["gpt.h0", "1.00", "fine"], ["gewicht.\u{4e2d}", "12.50", ""], ["x", "", "a b"]];
        let rows = rows.map(|row| row.map(String::from));
        let text = table(2, [("tensor", Left), ("dB", Right), ("why", Left)], rows.clone());
        let expected =
            ["  tensor         dB  why", "  gpt.h0       1.00  fine", "  gewicht.\u{4e2d}  12.50", "  x                  a b"];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        // A wide character takes two columns of a terminal.
        let headless = table(0, [("", Left), ("", Right), ("", Left)], rows);
        assert_eq!(headless.lines().next(), Some("gpt.h0       1.00  fine"));
    }
}
