"""Tables as Markdown, CSV and LaTeX."""

import csv
import io
import itertools
from collections.abc import Sequence

from cwvae.comparison.tables import Row, Table

_MISSING = "–"  # noqa: RUF001 - a dash, as in the paper

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "–": "--",  # noqa: RUF001
        "±": r"$\pm$",
        "≥": r"$\geq$",
    }
    | {character: f"\\{character}" for character in "&%$#_"}
)


def markdown(table: Table) -> str:
    """Returns a table as Markdown, with its notes below.

    Markdown has one line of headings, for the groups. The first row has the names of columns.
    """
    groups = [name for name, count in _groups(table) for name in (name, *[""] * (count - 1))]
    names = [name for _, name in table.columns]
    lines = [("", *groups), ("---", *["---:"] * len(names)), ("", *names)]
    lines += [(row.label, *_cells(row, _MISSING, "**{}**", " ± {}")) for row in table.rows]
    lines += [(f"*{row.label}*", *_cells(row, _MISSING)) for row in table.baselines]
    rows = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]
    notes = [f"- {note}" for note in (*table.notes, *table.hints)]
    return "\n".join([f"**{table.title}**", "", *rows, "", *notes]) + "\n"


def csv_text(table: Table) -> str:
    """Returns a table as CSV: plain numbers, empty where one is missing, without notes.

    If a row has several training seeds, there is a column `seed`. The row of a model then has
    `mean` in it, and is followed by a row with half the width of the 95% interval and one for each
    seed. It is empty for rows without seeds, such as those of baselines.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    plain = str.maketrans("", "", "↑↓")
    columns = [f"{g} {n}".translate(plain).strip() for g, n in table.columns]
    rows = (*table.rows, *table.baselines)
    has_seeds = any(len(_seeds(row)) > 1 for row in rows)
    writer.writerow(["model", *["seed"] * has_seeds, *columns])
    for row in rows:
        seeds = _seeds(row) if has_seeds else []
        kind = ["mean" if seeds else ""] if has_seeds else []
        writer.writerow([row.label, *kind, *_cells(row, "")])
        margins = [cell.margin if cell else "" for cell in row.cells]
        if len(seeds) > 1 and any(margins):
            writer.writerow([row.label, "95% half-width", *margins])
        for seed in seeds:
            values = [cell.by_seed.get(seed, "") if cell else "" for cell in row.cells]
            writer.writerow([row.label, seed, *values])
    return buffer.getvalue()


def latex(table: Table) -> str:
    """Returns a table for LaTeX, two columns wide. It needs booktabs and adjustbox."""
    spans, rules, start = [], [], 2
    for name, count in _groups(table):
        spans.append(rf"\multicolumn{{{count}}}{{c}}{{{escaped(name)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
        start += count
    sizes = [count for _, count in _groups(table)]
    margins = [
        max((row.cells[i].margin for row in table.rows if row.cells[i]), key=len, default="")
        for i in range(len(table.columns))
    ]
    body = [_latex_row(row, margins) for row in table.rows]
    if table.baselines:
        body += [r"\midrule", *(_latex_row(row, margins) for row in table.baselines)]
    lines = [
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{escaped(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\setlength{\tabcolsep}{4pt}",
        r"\begin{adjustbox}{max width=\textwidth}",
        rf"\begin{{tabular}}{{l{' '.join('r' * size for size in sizes)}}}",
        r"\toprule",
        " & ".join(["", *spans]).lstrip() + r" \\",
        " ".join(rules),
        " & ".join(["Model", *(escaped(name) for _, name in table.columns)]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
        r"\par\medskip\parbox{\textwidth}{\footnotesize",
        *(escaped(note) for note in table.notes),
        "}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def texts(tables: Sequence[Table]) -> dict[str, str]:
    """Returns {file name: content}: all tables in a .md and a .tex file, and a .csv file for each.

    The .md and .tex files have the name of the first table.
    """
    needs = r"% Needs \usepackage{booktabs,adjustbox}."
    contents = {f"{tables[0].name}.md": "\n".join(map(markdown, tables))}
    contents |= {f"{table.name}.csv": csv_text(table.file or table) for table in tables}
    return contents | {f"{tables[0].name}.tex": "\n".join([needs, *map(latex, tables)])}


def escaped(text: str) -> str:
    """Returns text with LaTeX's special characters escaped."""
    return text.translate(_LATEX)


def _groups(table):
    """Returns (group, number of its columns) from left to right."""
    return [
        (name, len(list(columns)))
        for name, columns in itertools.groupby(group for group, _ in table.columns)
    ]


def _seeds(row: Row) -> list[int]:
    """Returns the training seeds of a row's scores."""
    return sorted({seed for cell in row.cells if cell for seed in cell.by_seed})


def _cells(row: Row, missing: str, bold: str = "{}", margin: str = "") -> list[str]:
    """Returns a row's numbers as text; `bold` formats those that are bold, `margin` margins."""
    return [
        missing
        if cell is None
        else (bold if cell.bold else "{}").format(cell.text)
        + (margin.format(cell.margin) if cell.margin else "")
        for cell in row.cells
    ]


def _latex_row(row: Row, margins: Sequence[str]) -> str:
    """Returns a line of a table, with the longest margin of each column."""
    # LaTeX reads [ and * as options when they follow the end of a line.
    label = "{}" * row.label.startswith(("[", "*")) + escaped(row.label)
    cells = _cells(row, "--", r"\textbf{{{}}}", r" $\pm$ {}")
    for i, margin in enumerate(margins):
        if margin and not (row.cells[i] and row.cells[i].margin):
            cells[i] += rf"\phantom{{ $\pm$ {margin}}}"  # The means of a column are aligned.
    return " & ".join([label, *cells]) + r" \\"
