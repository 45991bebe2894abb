"""Compares evaluated runs: the paper's Tables 1 and 2, and Figures 1, 5, 7 and E.1.

No TensorFlow: all input is in the metrics.json and clip_scores.npz of evaluations.

- A row is a label, usually a model. A column is a data set: `data.name`, a folder of videos' own
  name, or DATA in NAME@DATA=RUN. `CW-VAE=logs/a CW-VAE=logs/b` on two data sets is one row. On one
  data set they are training seeds of one row, which shows their mean.
- Bold and ranks are computed from the numbers as printed, as in the paper. Ranks are competition
  ranks (1, 2, 2, 4), averaged over the columns in which every model has a score, and rounded half
  to even. The best of several samples and the baselines have no rank.
- PSNR and SSIM are of one protocol; the table of further measures has the other one.
"""

import contextlib
import pathlib
import re
from collections.abc import Sequence

from cwvae.comparison import (
    agreement,
    costs,
    figures,
    formats,
    memory,
    paper,
    reset_levels,
    runs,
    tables,
)
from cwvae.errors import UserError
from cwvae.evaluation.results import metric_name
from cwvae.run import files
from cwvae.run import folder as run_folder

# Files that a comparison may write.
_STEMS = re.compile(
    "table|training|reset_levels|measures|memory|kl|ranks|psnr|ssim|lpips|fvd_prefixes|fvd_windows"
    "|readout_.*"
)
_SUFFIXES = (".md", ".csv", ".tex", ".png", ".pdf")


def compare(
    arguments: Sequence[str],
    out: str | pathlib.Path,
    protocol: str = "standard",
    with_paper: bool = False,
    with_costs: bool = False,
    resets: Sequence[str] = (),
) -> tuple[str, list[pathlib.Path]]:
    """Compares runs and writes tables and figures.

    Args:
      arguments: Runs, as RUN, LABEL=RUN or LABEL@DATA=RUN.
      out: The folder to write into, which is created. It holds the files of one comparison, also
        after a crash: table.md is removed first, and written last.
      protocol: Protocol of PSNR and SSIM.
      with_paper: Whether to add the paper's scores, which do not need runs.
      with_costs: Whether to add the table of training costs.
      resets: Evaluations of the same runs in which one level is blind, as `arguments`, for the
        table of reset levels.

    Returns:
      The content of the .md files, and all files.

    Raises:
      UserError: A run that is not evaluated, runs that cannot be compared, or a folder that cannot
        be written or in which another process is at work.
    """
    groups = runs.by_data(runs.read(arguments))
    first = [name for name in paper.published()["datasets"] if name in groups]  # in its order
    groups = {name: groups[name] for name in dict.fromkeys([*first, *groups])}
    remarks = [note for group in groups.values() for note in agreement.check(group, protocol)]
    columns_of_paper = paper.columns(groups) if with_paper else {}
    table, ranks = tables.table_1(groups, columns_of_paper, protocol)
    table.notes[:0] = [*_notes_on_protocol(groups, protocol), *_notes_on_seeds(groups)]
    table.notes.extend([*_notes_on_fvd(groups), *remarks])
    horizons, hints = memory.horizons(groups, protocol)
    table.hints.extend([*_hints_on_missing_scores(groups), *hints])
    if columns_of_paper:
        table.notes.extend(paper.notes(groups, columns_of_paper))
    more = [tables.other_measures(groups, protocol), memory.table(groups, horizons)]
    more.append(tables.kl_table(groups, columns_of_paper))
    contents = formats.texts([table, *filter(None, more)])
    contents |= reset_levels.texts(groups, runs.read(resets))
    contents |= costs.texts(groups) if with_costs else {}
    text = "\n".join(content for name, content in contents.items() if name.endswith(".md"))
    contents |= figures.curves(groups, protocol) | figures.ranks(ranks)
    contents |= figures.memory(groups, horizons) | figures.kl(groups)
    return text, _write(pathlib.Path(out), contents)


def _notes_on_protocol(groups, protocol):
    """Returns notes on how scores were computed, by measure and by data set."""
    said = []
    for metric in ("ssim", "psnr", "lpips"):
        name = metric_name(metric, protocol)
        texts = {}  # {protocol: data sets}, which differ in the frames that are scored
        for data, entries in groups.items():
            for text in dict.fromkeys(
                e.metrics[name]["protocol"] for e in entries if name in e.metrics
            ):
                texts.setdefault(text, []).append(paper.label(data))
        for text, where in texts.items():
            on = f" on {', '.join(where)}" if len(texts) > 1 else ""
            said.append(f"{metric.upper()}{on} ({text})")
    notes = [f"Protocol: {', '.join(said)}."] if said else []
    for data, (entry, *_) in groups.items():
        results = entry.first.results
        samples, levels = results["num_samples"], results["observe_levels"]
        name, own = paper.label(data), entry.first.data_name
        notes.append(
            f"{name}{'' if name == own else f' ({own})'}: {results['context']} context"
            f" frames, {results['horizon']} predicted, {results['num_videos']} videos, {samples}"
            f" sample{'' if samples == 1 else 's'} per video, frames of {results['frames']}"
            + (f", levels that see the context: {levels}" if levels else "")
            + "."
        )
    return notes


def _notes_on_seeds(groups):
    """Returns a note on the seeds of each row, if a row has several."""
    if all(len(entry.runs) == 1 for group in groups.values() for entry in group):
        return []
    rows = {}  # {seeds: rows with them}
    for entry in runs.entries(groups):
        where = entry.label if len(groups) == 1 else f"{entry.label} on {paper.label(entry.data)}"
        rows.setdefault(entry.seeds, []).append(where)
    said = [
        ", ".join("unknown" if seed is None else str(seed) for seed in seeds)
        + (f" ({', '.join(where)})" if len(rows) > 1 else "")
        for seeds, where in rows.items()
    ]
    return [
        f"Training seeds: {'; '.join(said)}. All were scored on the same test videos. Bold and"
        " ranks compare means."
    ]


def _notes_on_fvd(groups):
    """Returns notes on how FVD was computed."""
    notes = []
    for run in (run for group in groups.values() for entry in group for run in entry.runs):
        name, fvd = paper.label(run.data), run.results["fvd"]
        if fvd:
            floor = fvd["floor"]["value"]
            real = f"; between real videos {floor:.0f} ({fvd['floor']['source']})" if floor else ""
            notes.append(f"FVD on {name}: {fvd['protocol']}; I3D module {fvd['module']}{real}.")
            notes += [f"{name}: {warning}" for warning in fvd["warnings"]]
    return list(dict.fromkeys(notes))


def _hints_on_missing_scores(groups):
    """Returns the reasons for missing scores, which name files and commands."""
    missing = {}
    for entry in runs.entries(groups):
        for run in entry.runs:
            for metric, why in run.results["not_computed"].items():
                where = f"{entry.name_of(run)} on {paper.label(run.data)}"
                missing.setdefault((metric, " ".join(why.split())), []).append(where)
    return [
        f"{metric.upper()} not computed for {', '.join(where)}: {why}"
        for (metric, why), where in missing.items()
    ]


def _write(folder, contents):
    """Writes files, removes those of an earlier comparison, and returns the paths."""
    try:
        # The first file gets its name last, because the stack is unwound from the end.
        with run_folder.locked(folder, "--out"), contextlib.ExitStack() as stack:
            for name in ("table.md", *(name for name in contents if name != "table.md")):
                files.remove_leftovers(folder, f"{name}.")
                aside, content = stack.enter_context(files.whole(folder / name)), contents[name]
                aside.write_bytes(content.encode() if isinstance(content, str) else content)
            (folder / "table.md").unlink(missing_ok=True)
            for old in folder.iterdir():
                ours = old.suffix in _SUFFIXES and _STEMS.fullmatch(old.stem)
                if ours and old.name not in contents:
                    old.unlink()
    except OSError as error:
        raise UserError(
            f"--out {folder}: cannot write there ({error.strerror}). Give another folder."
        ) from None
    return [folder / name for name in contents]
