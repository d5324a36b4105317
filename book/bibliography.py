"""The bibliography: the works that chapters and pages link to, and where they do.

The links are found in the text. A work that is linked but not described here, or
described but linked nowhere, stops the build.
"""

import re
from pathlib import Path

WORKS = {
    "1801.03924": "Zhang, Isola, Efros, Shechtman, Wang (2018). The Unreasonable "
    "Effectiveness of Deep Features as a Perceptual Metric.",
    "1801.04406": "Mescheder, Geiger, Nowozin (2018). Which Training Methods for GANs "
    "do actually Converge?",
    "1804.04235": "Shazeer, Stern (2018). Adafactor: Adaptive Learning Rates with "
    "Sublinear Memory Cost.",
    "1904.06991": "Kynkäänniemi, Karras, Laine, Lehtinen, Aila (2019). Improved "
    "Precision and Recall Metric for Assessing Generative Models.",
    "1910.02054": "Rajbhandari, Rasley, Ruwase, He (2019). ZeRO: Memory Optimizations "
    "Toward Training Trillion Parameter Models.",
    "2012.09841": "Esser, Rombach, Ommer (2020). Taming Transformers for "
    "High-Resolution Image Synthesis.",
    "2102.12092": "Ramesh, Pavlov, Goh, Gray, Voss, Radford, Chen, Sutskever (2021). "
    "Zero-Shot Text-to-Image Generation.",
    "2110.02861": "Dettmers, Lewis, Shleifer, Zettlemoyer (2021). 8-bit Optimizers via "
    "Block-wise Quantization.",
    "2110.04627": "Yu, Li, Koh, Zhang, Pang, Qin, Ku, Xu, Baldridge, Wu (2021). "
    "Vector-quantized Image Modeling with Improved VQGAN. The paper of this book.",
    "2111.06377": "He, Chen, Xie, Li, Dollár, Girshick (2021). Masked Autoencoders Are "
    "Scalable Vision Learners.",
    "2202.04200": "Chang, Zhang, Jiang, Liu, Freeman (2022). MaskGIT: Masked "
    "Generative Image Transformer.",
    "2203.01941": "Lee, Kim, Kim, Cho, Han (2022). Autoregressive Image Generation "
    "using Residual Quantization.",
    "2205.14135": "Dao, Fu, Ermon, Rudra, Ré (2022). FlashAttention: Fast and "
    "Memory-Efficient Exact Attention with IO-Awareness.",
    "2206.10789": "Yu, Xu, Koh and others (2022). Scaling Autoregressive Models for "
    "Content-Rich Text-to-Image Generation (Parti).",
    "2212.03185": "Gu, Wang, Ge, Shan, Qie, Shou (2022). Rethinking the Objectives of "
    "Vector-Quantized Tokenizers for Image Synthesis (SeQ-GAN).",
    "2301.00704": "Chang, Zhang, Barber and others (2023). Muse: Text-To-Image "
    "Generation via Masked Generative Transformers.",
    "2301.13188": "Carlini, Hayes, Nasr and others (2023). Extracting Training Data "
    "from Diffusion Models.",
    "2309.15505": "Mentzer, Minnen, Agustsson, Tschannen (2023). Finite Scalar "
    "Quantization: VQ-VAE Made Simple (FSQ).",
    "2404.02905": "Tian, Jiang, Yuan, Peng, Wang (2024). Visual Autoregressive "
    "Modeling: Scalable Image Generation via Next-Scale Prediction (VAR).",
    "2406.06525": "Sun, Jiang, Chen, Zhang, Peng, Luo, Yuan (2024). Autoregressive "
    "Model Beats Diffusion: Llama for Scalable Image Generation (LlamaGen).",
    "2406.07550": "Yu, Weber, Deng, Shen, Cremers, Chen (2024). An Image is Worth 32 "
    "Tokens for Reconstruction and Generation (TiTok).",
    "2407.01082": "Nguyen, Baker, Neo and others (2024). Turning Up the Heat: Min-p "
    "Sampling for Creative and Coherent LLM Outputs.",
    "2410.06424": "Fifty, Junkins, Duan and others (2024). Restructuring Vector "
    "Quantization with the Rotation Trick.",
    "2411.00776": "Yu, He, Deng, Shen, Chen (2024). Randomized Autoregressive Visual "
    "Generation (RAR).",
    "2412.09607": "Esteves, Suhail, Makadia (2024). Spectral Image Tokenizer.",
    "2501.05453": "Rajasegaran, Radosavovic, Ravishankar and others (2025). An "
    "Empirical Study of Autoregressive Pre-training from Videos (Toto).",
}
WORK = re.compile(r"arxiv\.org/abs/(\d{4}\.\d{4,5})")
PROGRAM = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")
PAGES = {
    "preface": "how to read this book",
    "results": "results",
    "your_pictures": "your own pictures",
}


class BibliographyError(Exception):
    """A work that is linked and not described, or the other way round."""


def linked(root: Path, pattern: re.Pattern) -> dict[str, list[str]]:
    """What a pattern finds, each with Markdown links to the pages that have it."""
    found = dict[str, list[str]]()
    for path in sorted(root.glob("notebooks/[0-9]*.md")):
        number = int(path.stem.split("_")[0])
        link = f"[{number}](notebooks/{path.stem}.ipynb)"
        for name in dict.fromkeys(pattern.findall(path.read_text("utf-8"))):
            found.setdefault(name, []).append(link)
    for stem, title in PAGES.items():
        path = root / "book" / f"{stem}.md"
        text = path.read_text("utf-8") if path.exists() else ""
        for name in dict.fromkeys(pattern.findall(text)):
            found.setdefault(name, []).append(f"[{title}]({stem}.md)")
    return found


def page(root: Path, works: dict[str, str] = WORKS) -> str:
    """The page; raises `BibliographyError` if text and list do not agree."""
    cited = linked(root, WORK)
    unknown = sorted(set(cited) - set(works))
    if unknown:
        raise BibliographyError(
            f"book/bibliography.py does not describe arXiv {', '.join(unknown)}"
        )
    unused = sorted(set(works) - set(cited))
    if unused:
        raise BibliographyError(f"no chapter links to arXiv {', '.join(unused)}")
    lines = [
        "# Bibliography",
        "",
        "Works that the chapters link to, by first author, and the chapters that do. "
        "The year is that of the first preprint.",
        "",
    ]
    for number, text in sorted(works.items(), key=lambda item: item[1].casefold()):
        link = f"[arXiv:{number}](https://arxiv.org/abs/{number})"
        lines.append(f"- {text} {link}. In {', '.join(cited[number])}.")
    lines += [
        "",
        "## Programs",
        "",
        "Public code that the chapters read, mostly to see what others chose where the "
        "paper is silent.",
        "",
    ]
    for name, pages in sorted(
        linked(root, PROGRAM).items(), key=lambda x: x[0].lower()
    ):
        lines.append(f"- [{name}](https://github.com/{name}). In {', '.join(pages)}.")
    return "\n".join(lines) + "\n"


def write(root: Path, target: Path) -> None:
    """Make the page, touched only when it changes."""
    text = page(root)
    if not target.exists() or target.read_text("utf-8") != text:
        target.write_text(text, "utf-8")
