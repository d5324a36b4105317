"""What the paper claims of the grid's rows, as data."""

from __future__ import annotations

from dataclasses import dataclass

from minivim_lab.reproduce.grid import row_named


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The paper has `better` ahead of `worse` by a figure; both name rows.

    `figure` may be two, of `better` and of `worse`, of one unit.
    """

    statement: str
    where: str
    paper: str
    better: str
    worse: str
    figure: str | tuple[str, str]
    note: str = ""

    @property
    def figures(self) -> tuple[str, str]:
        """Of `better` and of `worse`."""
        one = self.figure
        return (one, one) if isinstance(one, str) else one

    @property
    def paired(self) -> bool:
        """Whether a seed stands for the same tokenizer on both sides.

        Then what the seed did to the tokenizer cannot speak for one side.
        """
        one, other = row_named(self.better), row_named(self.worse)
        plain = ("size", "kind", "full_loss", "coarse", "settings")
        return (one.prior is not None or one == other) and all(
            getattr(one, name) == getattr(other, name) for name in plain
        )


# What is known of the rows that differ.
PATCHES = (
    "1,200 steps of 16 images are no 500,000 of 256. A convolution blends neighbours "
    "from the first step, while the ViT still shows its patches in the strip of "
    "pictures. The gap closes: in runs of 400 steps the ViT's judge distance was six "
    "times the CNN's, here it is twice. Whether the ViT overtakes the CNN later is not "
    "shown, nor what equal time would give, in which it has more than three times the "
    "steps. Muse (arXiv 2301.00704) preferred a CNN. Small batches are hard on a ViT's "
    "codes elsewhere, too: the rotation trick's authors report 0.3 % of 8,192 in use "
    "at batches of 32 (arXiv 2410.06424)."
)
HARDER = (
    "The CNN's codes reconstruct better and are harder to predict (twice the nats for "
    "a token): what stage 1 gains, a prior of this size does not pass on."
)
SHORT = (
    "The blocks lie closer together than the seeds of one block. In the shipped prior, "
    "over the shipped tokenizer, the first block is behind the others (1,500 steps of "
    "64 images; 96.1 %), but blocks 2 to 4 lie within noise (97.8, 97.8 and 97.4 %): "
    "no middle shows there either."
)
FEW = (
    "The paper's shape is there, with its best place at 4 in place of 8: 2 dimensions "
    "use every code and say too little, 32 leave most of the codes unused. 256 codes "
    "are not 8,192; our guess is that so few find room on a sphere of 4 dimensions. "
    "LlamaGen confirms the paper with 16,384 codes (rFID 2.19 with 8 dimensions, 9.88 "
    "with 4; arXiv 2406.06525, Table 2)."
)
PIXELS = (
    "iGPT's 64 tokens are here the pixels of an 8 x 8 picture. It knows most in its "
    "first block and, on average, less in every later one, and its samples are the "
    "farthest of all from real images. A prior cannot know what its tokenizer lost; "
    "but dead codes alone are not the reason, since the CNN uses many more and its "
    "prior knows no more. With longer runs and a better tokenizer it turns round: the "
    "shipped priors are ahead of iGPT of the same size, one seed each, on both data "
    "sets (97 against 86 %, 50 against 44 %; the section before this one)."
)
COLLAPSE = (
    "With PatchGAN and its hinge loss two of the three runs ended with hardly more "
    "than two codes, as the perplexity shows, so these rows compare a picture with "
    "next to none. Both are far behind L2 alone, with half the steps and a sum of "
    "losses that does harm on `shapes` (the section after this one). The study of "
    "CIFAR-10 below has both without a collapse: StyleGAN2's looks better there, and "
    "its pixels are closer as well."
)
EVENLY = (
    "As many codes are in use with l2 as without, but with it they are used more "
    "evenly: the ranges of the perplexity do not overlap (15.5 to 17.0 against 9.9 to "
    "15.1)."
)
SIZES = (
    "The runs are equally short for all sizes. One of the three runs of SL is far "
    "behind the other two, which are level with BB by the judge and ahead by PSNR: "
    "between such runs no small gain can be seen."
)

CLAIMS = (
    Claim(
        statement="Base networks reconstruct better than small ones",
        where="Table 4",
        paper="FID 1.55 (BB), 1.99 (SS)",
        better="BB",
        worse="SS",
        figure="judge_distance",
    ),
    Claim(
        statement="The pixels of base networks are closer than those of small ones",
        where="Table 4",
        paper="squared error 3.09 (BB), 3.34 (SS), in 1e-3",
        better="BB",
        worse="SS",
        figure="psnr",
    ),
    Claim(
        statement="A small encoder with a large decoder reconstructs best",
        where="Table 4",
        paper="FID 1.28 (SL), 1.55 (BB)",
        better="SL",
        worse="BB",
        figure="judge_distance",
        note=SIZES,
    ),
    Claim(
        statement="The pixels of SL are the closest, too",
        where="Table 4",
        paper="squared error 2.88 (SL), 3.09 (BB), in 1e-3",
        better="SL",
        worse="BB",
        figure="psnr",
        note=SIZES,
    ),
    Claim(
        statement="Small networks train faster",
        where="Tables 1 and 4",
        paper="1520 (SS), 960 (BB) images/s",
        better="SS",
        worse="BB",
        figure="images_per_second",
    ),
    Claim(
        statement="A large decoder makes training slower",
        where="Tables 1 and 4",
        paper="960 (BB), 384 (SL) images/s",
        better="BB",
        worse="SL",
        figure="images_per_second",
    ),
    Claim(
        statement="A ViT reconstructs better than a CNN",
        where="Table 4",
        paper="FID 1.55 (BB), 2.26 (CNN)",
        better="BB",
        worse="CNN",
        figure="judge_distance",
        note=PATCHES,
    ),
    Claim(
        statement="A ViT's pixels are closer than a CNN's",
        where="Table 4",
        paper="squared error 3.09 (BB), 3.81 (CNN), in 1e-3",
        better="BB",
        worse="CNN",
        figure="psnr",
        note=PATCHES,
    ),
    Claim(
        statement="A ViT uses more of the codebook than a CNN",
        where="Table 4",
        paper="96 % (BB), 63 % (CNN)",
        better="BB",
        worse="CNN",
        figure="usage_256",
        note=PATCHES,
    ),
    Claim(
        statement="A ViT trains faster than a CNN",
        where="Table 1",
        paper="960 (BB), 400 (CNN x2), 946 (CNN x1) images/s",
        better="BB",
        worse="CNN",
        figure="images_per_second",
    ),
    Claim(
        statement="Codes of few dimensions reconstruct better than wide ones",
        where="Table 4",
        paper="FID 1.52 (8), 3.68 (256)",
        better="BB",
        worse="code dim = width",
        figure="judge_distance",
    ),
    Claim(
        statement="Wide codes leave most of the codebook unused",
        where="Table 4",
        paper="96 % (8), 4 % (256)",
        better="BB",
        worse="code dim = width",
        figure="usage_256",
    ),
    Claim(
        statement="8 dimensions reconstruct at least as well as 32",
        where="Table 4",
        paper="FID 1.52 (8), 1.55 (32)",
        better="BB",
        worse="code dim 32",
        figure="judge_distance",
    ),
    Claim(
        statement="4 dimensions are too few",
        where="Table 4",
        paper="FID 1.52 (8), 3.68 (4)",
        better="BB",
        worse="code dim 4",
        figure="judge_distance",
        note=FEW,
    ),
    Claim(
        statement="The narrowest code loses most, here 2 dimensions",
        where="Table 4",
        paper="FID 1.52 (8), 3.68 (4)",
        better="BB",
        worse="code dim 2",
        figure="judge_distance",
        note=FEW,
    ),
    Claim(
        statement="l2-normalised codes reconstruct better",
        where="Table 4",
        paper="FID 1.55 with, 5.44 without",
        better="BB",
        worse="without l2",
        figure="judge_distance",
    ),
    Claim(
        statement="More of the l2-normalised codes are used",
        where="Table 4",
        paper="96 % with, 2 % without",
        better="BB",
        worse="without l2",
        figure="usage_256",
        note=EVENLY,
    ),
    Claim(
        statement="Factorised, normalised codes are used more than VQ-VAE's",
        where="section 3.2",
        paper="in words: VQGAN's wide codes leave many unused",
        better="BB",
        worse="VQ-VAE",
        figure="usage_256",
    ),
    Claim(
        statement="StyleGAN2's discriminator looks better than PatchGAN",
        where="Table 4",
        paper="FID 1.55, 3.88",
        better="StyleGAN2, full loss",
        worse="PatchGAN, full loss",
        figure="judge_distance",
        note=COLLAPSE,
    ),
    Claim(
        statement="PatchGAN's pixels are closer than with StyleGAN2's",
        where="Table 4",
        paper="squared error 2.58 (PatchGAN), 3.09 (StyleGAN2), in 1e-3",
        better="PatchGAN, full loss",
        worse="StyleGAN2, full loss",
        figure="psnr",
        note=COLLAPSE,
    ),
    Claim(
        statement="PatchGAN trains faster",
        where="Table 4",
        paper="1227 (PatchGAN), 960 (StyleGAN2) images/s",
        better="PatchGAN, full loss",
        worse="StyleGAN2, full loss",
        figure="images_per_second",
    ),
    Claim(
        statement="Rejection at 0.5 gives better samples",
        where="Table 6",
        paper="FID 3.04 (0.5), 4.17 (1.0)",
        better="rejection at 0.5",
        worse="conditional prior",
        figure="sample_distance",
    ),
    Claim(
        statement="Rejection makes samples more clearly of their class",
        where="Table 6",
        paper="IS 227.4 (0.5), 175.1 (1.0)",
        better="rejection at 0.5",
        worse="conditional prior",
        figure="judge_agrees",
    ),
    Claim(
        statement="A larger prior gives better samples (base, small)",
        where="Table 8",
        paper="FID 4.17 (VIM-Large), 8.81 (VIM-Base)",
        better="conditional prior",
        worse="small prior",
        figure="sample_distance",
    ),
    Claim(
        statement="A larger prior gives better samples (large, base)",
        where="Table 8",
        paper="FID 4.17 (VIM-Large), 8.81 (VIM-Base)",
        better="large prior",
        worse="conditional prior",
        figure="sample_distance",
    ),
    Claim(
        statement="A larger prior makes samples more clearly of their class",
        where="Table 8",
        paper="IS 175.1 (VIM-Large), 110.8 (VIM-Base)",
        better="large prior",
        worse="conditional prior",
        figure="judge_agrees",
    ),
    Claim(
        statement="A longer token grid gives better samples",
        where="Table 8",
        paper="FID 8.81 (32 x 32), 11.20 (16 x 16)",
        better="conditional prior",
        worse="prior over the short grid",
        figure="sample_distance",
    ),
    Claim(
        statement="A longer grid makes samples more clearly of their class",
        where="Table 8",
        paper="IS 110.8 (32 x 32), 97.2 (16 x 16)",
        better="conditional prior",
        worse="prior over the short grid",
        figure="judge_agrees",
    ),
    Claim(
        statement="Codes of a ViT give better samples than those of a CNN",
        where="Table 5",
        paper="FID 7.0 (ViT-VQGAN), 10.2 (VQGAN with top-k)",
        better="unconditional prior",
        worse="prior over CNN codes",
        figure="sample_distance",
        note=HARDER,
    ),
    Claim(
        statement="Codes of a ViT give better features than those of a CNN",
        where="Table 7",
        paper="65.1 % (ViT-VQGAN), 61.8 % (CNN-VQGAN)",
        better="unconditional prior",
        worse="prior over CNN codes",
        figure="probe",
        note=HARDER,
    ),
    Claim(
        statement="Codes give better features than iGPT's pixels",
        where="Table 7",
        paper="73.2 % (VIM-Large), 60.3 % (iGPT-L), both 32 x 32 tokens",
        better="unconditional prior",
        worse="iGPT",
        figure="probe",
        note=PIXELS,
    ),
    Claim(
        statement="The middle block knows more of the class than the last",
        where="section 5.3, Figure 3",
        paper="best: block 10 of 24, 15 of 36",
        better="unconditional prior",
        worse="unconditional prior",
        figure=("probe_middle", "probe_last"),
        note=SHORT,
    ),
    Claim(
        statement="The middle block knows more of the class than the first",
        where="section 5.3, Figure 3",
        paper="best: block 10 of 24, 15 of 36",
        better="unconditional prior",
        worse="unconditional prior",
        figure=("probe_middle", "probe_first"),
        note=SHORT,
    ),
)
