"""Write the results as a table, a picture and data: RESULTS.md, results.png, results.json."""

import json
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from app import __version__
from model import machine

Row = dict[str, Any]
OURS, STANDARD, BARE = "vae-server", "vae-server standard", "bare uvicorn"
#: Peer, body with connections, models, and the least ratio of our requests per second to the peer's.
BARS: list[tuple[str, str, tuple[str, ...], float]] = [
    (BARE, "npy 64", ("mlp",), 0.60),
    (BARE, "json 64", ("mlp",), 0.42),
    # The fast path must not be slower than the standard path.
    *((STANDARD, f"{form} 64", ("mlp",), 1.0) for form in ("json", "npy")),
    ("mosec", "json 64", ("mlp",), 1.0),
    ("mosec", "npy 64", ("mlp",), 1.0),
    ("mosec", "json 64", ("conv",), 1.5),
    ("mosec", "npy 64", ("conv",), 1.5),
    *(("mosec", f"{form} {count}", ("mlp", "conv"), 4.0) for count in (1, 8) for form in ("json", "npy")),
    ("LitServe", "json 64", ("mlp", "conv"), 20.0),
    ("BentoML", "json 64", ("mlp", "conv"), 15.0),
    ("MLServer", "json 64", ("mlp", "conv"), 8.0),
    ("Ray Serve", "json 64", ("mlp", "conv"), 50.0),
]
#: Peers whose ratios at 64 connections are close to a bar: they are medians of pairs of alternating loads.
PAIRED = (BARE, STANDARD, "mosec")


@dataclass
class Results:
    """Rows by server and model, and the speed of the model alone."""

    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    ceilings: dict[str, Row] = field(default_factory=dict)
    #: Duration of each load.
    seconds: float = 5

    @classmethod
    def read(cls, path: Path) -> "Results":
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self, folder: Path) -> None:
        """Write all three files. Called after every row, so that an interrupted run loses nothing."""
        (folder / "results.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        (folder / "RESULTS.md").write_text(self.text())
        self.plot(folder / "results.png")

    def text(self) -> str:
        lines = [
            "# Results",
            "",
            f"vae-server {__version__} beside its peers, {date.today().isoformat()}: `make bench`, loads of "
            f"{self.seconds:g} s, on {machine.describe()}, "
            f"Python {machine.versions()['python']}, torch {machine.versions()['torch']}. Every server has one worker, "
            "one thread and one core, and wrk another; a request is one image of 28 x 28 to `/encode`. The peers have "
            "the ONNX Runtime of vae-server, except naive FastAPI, which computes with torch, without batches, and "
            "bare uvicorn, which computes nothing. vae-server standard is the same engine and batcher behind "
            "VAE_HTTP=standard. Ratios are of one run; rates move with the machine.",
            "",
            "![requests a second](results.png)",
        ]
        for kind in self.ceilings:
            lines += ["", f"## {kind}", "", *self._table(kind)]
        lines += [
            "",
            "## Ratios",
            "",
            "Where the time of a request goes, and why a bar is missed, is in docs/LOG.md.",
            "",
        ]
        lines += [*self._ratios(), ""]
        return "\n".join(lines)

    def _table(self, kind: str) -> list[str]:
        lines = [
            "| server | body | 1 connection, requests/s | p50, ms | 8 | p50 | 64 | p50 | p99 | start, s | memory, MB |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for name, models in self.rows.items():
            row = models.get(kind, {})
            if "failed" in row:
                lines.append(f"| {name} | | {row['failed'].splitlines()[-1]:.120} |" + " |" * 8)
                continue
            for form in ("json", "npy"):
                if f"{form} 64" not in row:
                    continue
                one, some, many = (row[f"{form} {count}"] for count in (1, 8, 64))
                bad = sum(load["bad"] for load in (one, some, many))
                cells = [
                    name,
                    form + (f" ({bad} bad answers)" if bad else ""),
                    f"{one['rate']:,.0f}",
                    f"{one['p50']:.2f}",
                    f"{some['rate']:,.0f}",
                    f"{some['p50']:.2f}",
                    f"{many['rate']:,.0f}",
                    f"{many['p50']:.1f}",
                    f"{many['p99']:.1f}",
                    f"{row['start']:.1f}",
                    f"{row['memory']:,.0f}",
                ]
                lines.append("| " + " | ".join(cells) + " |")
        return lines

    def _ratios(self) -> list[str]:
        lines = ["| what | model | measured | bar | |", "|---|---|---|---|---|"]
        for peer, load, kinds, bar in BARS:
            for kind in kinds:
                what = f"requests/s, {load} connections, over {peer}"
                ours, theirs = (self.rows.get(name, {}).get(kind, {}) for name in (OURS, peer))
                if pairs := theirs.get("pairs", {}).get(load):
                    spread = f"; the middle of {len(pairs)} pairs, from {min(pairs):.2f} to {max(pairs):.2f}"
                    lines.append(_line(what + spread, kind, median(pairs), bar))
                elif load in ours and load in theirs:
                    lines.append(_line(what, kind, ours[load]["rate"] / theirs[load]["rate"], bar))
        for kind, ceiling in self.ceilings.items():
            row, bare = self.rows.get(OURS, {}).get(kind, {}), self.rows.get(BARE, {}).get(kind, {})
            if "rows 4" not in row:
                continue
            peak = max(rows / ceiling[f"encode {rows}"] for rows in _sizes(ceiling))
            lines.append(
                _line(
                    "rows/s of 1,024 rows as npy, over in-process",
                    kind,
                    1024 * row["rows 4"]["rate"] / peak,
                    0.85 if kind == "conv" else 0.65,
                )
            )
            peak = max(rows / ceiling[f"score {rows}"] for rows in _sizes(ceiling))
            lines.append(
                _line(
                    "rows/s of /free-energy?samples=16, 64 connections, over in-process",
                    kind,
                    16 * row["free energy 64"]["rate"] / peak,
                    0.8,
                )
            )
            lines.append(
                _line(
                    "requests/s at 256 connections over 64, npy",
                    kind,
                    row["npy 256"]["rate"] / row["npy 64"]["rate"],
                    0.9,
                )
            )
            if "npy 1" in bare:
                allowed = bare["npy 1"]["p50"] + 2.5e3 * ceiling["encode 1"]
                lines.append(
                    _line(
                        "p50 at 1 connection, ms, at most bare uvicorn's + 2.5 calls",
                        kind,
                        row["npy 1"]["p50"],
                        allowed,
                        most=True,
                    )
                )
            lines.append(_line("memory, MB, at most", kind, row["memory"], 350, most=True))
            lines.append(_line("start to first answer, s, at most", kind, row["start"], 4, most=True))
            if "memory after" in row:
                grown = row["memory after"]
                lines.append(
                    _line(
                        f"memory after {grown['requests']:,.0f} requests over before, at most",
                        kind,
                        grown["after"] / grown["before"],
                        1.05,
                        most=True,
                    )
                )
        return lines

    def plot(self, path: Path) -> None:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(1, max(1, len(self.ceilings)), figsize=(11, 4), squeeze=False, layout="constrained")
        for axis, kind in zip(axes[0], self.ceilings, strict=False):
            bars = [
                (f"{name}, {form}", models[kind][f"{form} 64"]["rate"], name == OURS)
                for name, models in self.rows.items()
                for form in ("npy", "json")
                if f"{form} 64" in models.get(kind, {})
            ]
            bars.sort(key=lambda bar: bar[1])
            drawn = axis.barh([bar[0] for bar in bars], [bar[1] for bar in bars])
            for patch, (_, _, own) in zip(drawn, bars, strict=True):
                patch.set_color("tab:blue" if own else "silver")
            axis.bar_label(drawn, fmt="{:,.0f}", padding=3)
            axis.set(
                title=f"{kind}: requests/s at 64 connections, one core",
                xlim=(0, 1.2 * max((b[1] for b in bars), default=1)),
            )
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _sizes(ceiling: Row) -> list[int]:
    return sorted({int(name.split()[1]) for name in ceiling if name.startswith("encode ")})


def _line(what: str, kind: str, measured: float, bar: float, *, most: bool = False) -> str:
    good = measured <= bar if most else measured >= bar
    return f"| {what} | {kind} | {measured:.2f} | {bar:.2f} | {'' if good else 'missed'} |"
