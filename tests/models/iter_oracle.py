"""The public PyTorch code of ITER as an oracle, and the numbers it gave, for tests without it.

    python -m tests.models.iter_oracle CHECKOUT tests/models/iter_reference.npz

CHECKOUT is one of chaofengc/ITER. No weights are stored: `state` makes them from names. What the
code asks of timm is trivial, and is put in its place, like the packages' `__init__`, which load the
trainers.
"""

import contextlib
import importlib
import sys
import types
import zlib
from pathlib import Path

import numpy as np

from maskgit_sr.methods.base import TileSpec
from maskgit_sr.methods.iter import ITERConfig
from maskgit_sr.models.swin import SwinConfig
from maskgit_sr.models.swin_vqgan import SwinVQGANConfig
from maskgit_sr.models.token_swin import RemovalConfig, TokenSwinConfig
from tests.models import golden as golden_file

TEXTS = ("entries", "published_entries")
REFERENCE = Path(__file__).with_name("iter_reference.npz")
ALPHAS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)

_SWIN = SwinConfig(dim=32, blocks=2)
# The public E_l always has 2 groups of 6 blocks, and all norms have 32 groups.
TINY = ITERConfig(
    tokenizer=SwinVQGANConfig((32, 32, 32, 64), swin=_SWIN, code_width=16, codes=24),
    encoder=RemovalConfig(stem=32, width=32, swin=SwinConfig(dim=32, groups=2)),
    refinement=TokenSwinConfig(_SWIN),
    evaluation=TokenSwinConfig(_SWIN),
    tile=TileSpec((16, 32), 4, 0.0),
)


def load(checkout):
    """The modules of a checkout."""
    import torch

    class DropPath(torch.nn.Identity):
        pass

    layers = types.ModuleType("timm.models.layers")
    layers.DropPath = DropPath
    layers.to_2tuple = lambda x: x if isinstance(x, tuple) else (x, x)
    layers.trunc_normal_ = torch.nn.init.trunc_normal_
    stubs = {"turtle": types.ModuleType("turtle"), "timm.models.layers": layers}
    stubs["turtle"].forward = None
    for name in ("timm", "timm.models", "basicsr", "basicsr.archs", "basicsr.utils"):
        stubs[name] = types.ModuleType(name)
        stubs[name].__path__ = [str(Path(checkout, *name.split(".")))]
    sys.modules |= stubs
    names = ("vqgan_swin", "demask_arch", "iter_arch", "iter_utils")
    try:
        modules = {name: importlib.import_module(f"basicsr.archs.{name}") for name in names}
    finally:
        for name in [n for n in sys.modules if n.split(".")[0] in ("timm", "turtle", "basicsr")]:
            del sys.modules[name]
    return types.SimpleNamespace(**modules)


def build(oracle, config):
    """The public network of ``config``, evaluating; its tokenizer is ``vqgan``."""
    tokenizer = config.tokenizer
    first = tokenizer.channels[0]
    multipliers = [width // first for width in tokenizer.channels]
    shape = dict(
        in_channels=3, emb_dim=tokenizer.code_width, resolution=[256, 256], nf=first,
        ch_mult=multipliers, global_blks="swin", swin_dim=tokenizer.swin.dim, swin_window=8,
        swin_blk_depth=tokenizer.swin.blocks, swin_blk_num=tokenizer.swin.groups,
    )  # fmt: skip
    whole = oracle.iter_arch.ITER(
        codebook_params=[[32, tokenizer.codes, tokenizer.code_width]],
        vqgan_opt=dict(ddconfig=shape, n_embed=tokenizer.codes, embed_dim=tokenizer.code_width),
    )  # without its LQ stage, whose widths are fixed
    whole.lq_encoder = oracle.iter_arch.LQEncoder(
        3,
        config.encoder.width,
        tokenizer.codes,
        int(np.log2(8 / config.scale)),
        config.encoder.stem,
    )
    whole.token_refine_net = oracle.iter_arch.TokenRefine(tokenizer.codes, demask_net="none")
    for name, shape, extra, outputs in (
        ("token_refine_net", config.refinement.swin, 1, tokenizer.codes),
        ("token_crit_net", config.evaluation.swin, 0, 2),
    ):
        part = oracle.demask_arch.SwinModel(
            shape.dim, tokenizer.codes + extra, outputs, shape.groups, shape.blocks
        )
        setattr(whole.token_refine_net, name, part)
    return whole.eval()


def listing(oracle, config):
    """Name and shape of every entry of the public network's state."""
    import torch

    with torch.device("meta"):
        return [[n, list(a.shape)] for n, a in build(oracle, config).state_dict().items()]


def learned(name):
    """True for entries that training changes, under the first of their names."""
    computed = name.endswith(("relative_position_index", "attn_mask"))
    return not computed and "generator." not in name


def state(entries):
    """Numbers of ordinary size for every learned entry, by its name."""

    def value(name, shape):
        x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if name.endswith("relative_position_bias_table"):
            return 0.5 * x
        if name.endswith("embedding.weight"):
            return x
        if name.endswith("bias"):
            return 0.1 * x
        if len(shape) == 1:
            return 1 + 0.2 * x
        return x / np.sqrt(np.prod(shape[1:]))

    return {n: value(n, tuple(s)).astype(np.float32) for n, s in entries if learned(n)}


def loaded(oracle, config, numbers):
    """The public network with those numbers."""
    import torch

    net = build(oracle, config)
    given = {name: torch.from_numpy(array) for name, array in numbers.items()}
    given |= {n.replace("decoder.", "generator."): a for n, a in given.items() if "decoder." in n}
    missing, unknown = net.load_state_dict(given, strict=False)
    assert not unknown and not [name for name in missing if learned(name)]
    return net


@contextlib.contextmanager
def no_chance():
    """Categorical draws become argmax, draws of positions the most probable ones."""
    import torch

    categorical = torch.distributions.Categorical
    sample, multinomial = categorical.sample, torch.multinomial
    categorical.sample = lambda self: self.logits.argmax(-1)
    torch.multinomial = lambda weights, count: weights.topk(count, dim=-1).indices
    try:
        yield
    finally:
        categorical.sample, torch.multinomial = sample, multinomial


def inputs(side=16, grid=(8, 8), batch=1, config=TINY, seed=0):
    """(LR image, HR image, tokens, LR tokens, mask, LR mask), NHWC."""
    random = np.random.RandomState(seed)
    codes = config.tokenizer.codes
    lr = random.rand(batch, side, side, 3).astype(np.float32)
    hr = random.rand(batch, grid[0] * 8, grid[1] * 8, 3).astype(np.float32)
    tokens, lr_tokens = random.randint(0, codes, (2, batch, *grid)).astype(np.int32)
    mask, lr_mask = random.rand(2, batch, *grid) < 0.5
    return lr, hr, tokens, lr_tokens, mask, lr_mask


def one_hot(tokens, codes):
    """Tokens [B, h, w] as the public networks take them."""
    import torch

    hot = torch.nn.functional.one_hot(torch.from_numpy(tokens).long(), codes)
    return hot.permute(0, 3, 1, 2).float()


def networks(net, given, config):
    """Outputs of the public networks for `inputs`, NHWC."""
    import torch

    lr, hr, tokens, lr_tokens, mask, lr_mask = given
    codes = config.tokenizer.codes

    def nchw(x):
        return torch.from_numpy(np.moveaxis(x, -1, 1).copy())

    def nhwc(x):
        return np.moveaxis(x.detach().numpy(), 1, -1)

    def flag(x):
        return torch.from_numpy(x[:, None].astype(np.float32))

    with torch.no_grad():
        current, low = one_hot(tokens, codes), one_hot(lr_tokens, codes)
        first = torch.cat([low, flag(lr_mask)], 1)
        second = torch.cat([current * (1 - flag(mask)), flag(mask)], 1)
        part = net.token_refine_net
        indices = torch.from_numpy(tokens)[:, None].long()
        found = net.vqgan.encode_to_prequant(nchw(hr))
        return dict(
            vectors=nhwc(found),
            tokens=net.vqgan.feat_to_indices(found).numpy(),
            image=nhwc(net.vqgan.decode_indices(indices)),
            removal=nhwc(net.lq_encoder(nchw(lr))),
            refinement=nhwc(part.token_refine_net([first, second])),
            evaluation=nhwc(part.token_crit_net([current, low])),
        )


def refine(net, lr_tokens, alpha, steps, schedule):
    """The public loop without chance: (final tokens [h, w], [(tokens, mask), …] of each pass).

    A pass's tokens are −1 where masked; its mask is true there.
    """
    import torch

    part, passes = net.token_refine_net, []
    part.T, part.init_mask_threshold, part.gamma_type = steps, alpha, schedule

    def spy(module, args):
        current = args[0][1][0].numpy()
        mask = current[-1] > 0
        passes.append((np.where(mask, -1, current[:-1].argmax(0)), mask))

    handle = part.token_refine_net.register_forward_pre_hook(spy)
    try:
        with torch.no_grad(), no_chance():
            found, *_ = part(torch.tensor(lr_tokens)[:, None].long())
    finally:
        handle.remove()
    return found[-1][0, 0].numpy(), passes


def outputs(oracle, numbers, config=TINY):
    """All that is stored: outputs of the networks, and the loop over `ALPHAS` from E_l's tokens."""
    net, given = loaded(oracle, config, numbers), inputs()
    found = networks(net, given, config)
    lr_tokens = found["removal"].argmax(-1).astype(np.int32)
    sweep = [refine(net, lr_tokens, alpha, 8, "linear") for alpha in ALPHAS]
    found["image"] = found["image"][:, ::4, ::4]
    return found | dict(
        final=np.stack([tokens for tokens, _ in sweep]),
        passes=np.asarray([len(passes) for _, passes in sweep]),
    )


def golden():
    """The stored numbers, and the state that gave them."""
    stored = golden_file.read(REFERENCE, TEXTS)
    return stored, state(stored["entries"])


def main(checkout, target):
    oracle = load(checkout)
    entries = listing(oracle, TINY)
    found = outputs(oracle, state(entries))
    published = [entry for entry in listing(oracle, ITERConfig()) if learned(entry[0])]
    texts = {"entries": entries, "published_entries": published}
    golden_file.write(target, found | texts, TEXTS)
    print(found["passes"], {name: array.shape for name, array in found.items()})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
