"""Every part of the paper: the chapter that treats it, or why none does.

A part is covered by the statements marked with its name, by statements marked elsewhere
(`by`), or not at all (`without`, the reason). `paper_table` refuses a part with neither
and a part with a reason that is covered nevertheless.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A section, equation, table, figure or appendix."""

    place: str
    title: str
    by: tuple[str, ...] = ()
    without: str = ""


FACTORISED = "factorised codes, looked up in few dimensions"
ENCODER = "the encoder, Transformer blocks over patches"
CAUSAL = "a causal Transformer over codes in raster order"
PROBED = "the mean over all tokens of one block's output"

PARTS = (
    Part("section 1", "Introduction"),
    Part(
        "section 2",
        "Related work",
        without="a survey; what the chapters build on is in the "
        "[bibliography](bibliography.md)",
    ),
    Part("section 3", "Vector-quantized images"),
    Part("section 3.1", "VQGAN with Vision Transformers"),
    Part("section 3.2", "The codebook"),
    Part("section 3.3", "The losses of stage 1"),
    Part("section 4", "Vector-quantized image modelling"),
    Part("section 4.1", "Images from the prior"),
    Part("section 4.2", "Features from the prior"),
    Part("section 5.1", "Training stage 1"),
    Part("section 5.2", "Training stage 2, sampling"),
    Part("section 5.3", "The linear probe"),
    Part(
        "section 6",
        "Ethics",
        without="about ImageNet and two sets of faces; none of them is used here",
    ),
    Part(
        "equation 1",
        "The loss of the codebook",
        by=("L_VQ, a codebook term and a commitment term",),
    ),
    Part(
        "equation 2",
        "The likelihood, code after code",
        by=(CAUSAL, "the negative log-likelihood of the next code"),
    ),
    Part("Table 1", "Speed and quality of tokenizers"),
    Part("Table 2", "Sizes"),
    Part("Table 3", "Reconstruction"),
    Part("Table 4", "Ablations of stage 1"),
    Part(
        "Table 5",
        "Faces without labels",
        without="CelebA-HQ and FFHQ at 256 x 256 pixels are not trained here; "
        "[chapter 10](notebooks/10_claims.ipynb) compares priors over codes of a ViT "
        "and of a CNN on `shapes`",
    ),
    Part("Table 6", "Class-conditional images"),
    Part(
        "Table 7",
        "Accuracy of the probe",
        by=("one softmax layer on frozen features", "a prior that has seen no label"),
    ),
    Part(
        "Table 8",
        "Sizes of the prior, lengths of the grid",
        by=("blocks, heads and widths of all five sizes",),
    ),
    Part("Figure 1", "Both stages in one drawing", by=(ENCODER, CAUSAL)),
    Part(
        "Figure 2",
        "Samples for ImageNet",
        without="ImageNet at 256 x 256 pixels is not trained here; "
        "[chapter 7](notebooks/07_sampling.ipynb) looks at samples of `shapes`",
    ),
    Part("Figure 3", "Accuracy of the probe by block", by=(PROBED,)),
    Part("Figure 4", "Lookup and embedding apart", by=(FACTORISED,)),
    Part("appendix A", "Which block to probe", by=(PROBED,)),
    Part(
        "appendix B",
        "Sizes of models",
        by=("blocks, heads and widths of all five sizes",),
    ),
    Part("appendix C", "Factorised codes in detail", by=(FACTORISED,)),
)

# Statements that a chapter explains without using the symbol: the chapter and words
# that stand in it.
EXPLAINED = {
    "stage 2 encodes augmented images on the fly": ("06_prior", "encoded on the fly"),
    "a small encoder may have a large decoder": (
        "03_vit_tokenizer",
        "SL gives better pictures",
    ),
    "VIM-Large without dropout for the probe": (
        "08_probe",
        "trained without dropout (Large)",
    ),
    "a two-layer tanh network at the output of the blocks": (
        "03_vit_tokenizer",
        "## The tanh head",
    ),
    "the decoder, the same in reverse": ("03_vit_tokenizer", "## And back"),
    "the perceptual loss, on features of a VGG": (
        "04_losses",
        "## How alike two pictures look",
    ),
    "dropout after attention, activation and FFN": ("06_prior", "| dropout | 0.1 |"),
    "one more LayerNorm after the last block": (
        "03_vit_tokenizer",
        "and after the last block",
    ),
    "the same Adam for the discriminator": (
        "04_losses",
        "rates and decay the same for both networks",
    ),
    "500k steps of 256 images, Adam 0.9 and 0.99": (
        "04_losses",
        "500,000 steps of 256",
    ),
    "450k steps of 1024 images, Adam 0.9 and 0.96": (
        "06_prior",
        "450,000 steps of 1024",
    ),
    "parameter counts as the table prints them": (
        "03_vit_tokenizer",
        "Table 2 has five rows",
    ),
    "blocks, heads and widths of all five sizes": (
        "03_vit_tokenizer",
        "Table 2 has five rows",
    ),
    "PatchGAN as the other discriminator": ("04_losses", "the PatchGAN variant"),
    "VIM-Large with ImageNet's class token": ("06_prior", "## The paper's sizes"),
    "positions in stage 1, learnt or fixed": ("03_vit_tokenizer", "## Positions"),
    "LayerNorm before attention and before the FFN": (
        "03_vit_tokenizer",
        "LayerNorm stands *before* attention",
    ),
    "weight decay for matrices only": ("10_claims", "weight decay and clipping"),
    "clipping by the global norm": ("10_claims", "weight decay and clipping"),
    "the block is chosen on held-out training images": (
        "08_probe",
        "chosen on held-out training images",
    ),
}
