"""RealSRT (Peng et al., ECCV 2024): networks, restoration and the four training stages' wiring.

Groups: ``tokenizer``, ``codebook``, ``generator``, ``critic``, ``control``; while training also
``discriminator`` and ``perceptual``, which are not part of a bundle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Execution, Image, Keys, Latent, Params, TokenGrid, Tokens
from maskgit_sr.decoding.masked import Decoded, decode
from maskgit_sr.decoding.policies import Policy
from maskgit_sr.methods.base import Restored, RestoreOptions, Stage, TileSpec
from maskgit_sr.models import codebook
from maskgit_sr.models.control import Control, MultiscaleControl
from maskgit_sr.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from maskgit_sr.models.functional import Network
from maskgit_sr.models.transformer import Memory, TokenTransformer, TransformerConfig
from maskgit_sr.models.vqgan import VQGAN, VQGANConfig
from maskgit_sr.ops import color
from maskgit_sr.ops.resize import upsample_bicubic


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights and rules of the training losses (RealSRT §4.1, methods section 1).

    Attributes:
        pixel: ``l1`` or ``l2``.
        perceptual: which perceptual net, ``perceptual_weight`` its factor.
        perceptual_shift: how much smaller than the image, in pixels, the square is that the
            perceptual net sees, at a random place in every step. That moves the image against the
            net's strides. At fixed ones a decoder learns patterns of their period, which please
            that net and nobody else (Kettunen et al., E-LPIPS, arXiv:1906.03973). 0 in the paper.
        adversarial_weight: factor on top of the adaptive weight; 0 leaves the GAN out.
        adversarial_start: step from which the GAN takes part.
        commitment: factor of the commitment loss.
        bypass: share of tokenizer examples decoded from continuous vectors, which keeps the decoder
            able to follow the controlling module's continuous residual. 0 in the paper.
        control_steps: decoding steps T that make the tokens the control stage learns from.
        tune_decoder: the control stage goes on training the tokenizer's decoder, which tokens do
            not depend on. Off in the paper; small decoders are the bottleneck without it.
    """

    pixel: str = "l2"
    perceptual: str = "vgg19"
    perceptual_weight: float = 0.1
    perceptual_shift: int = 0
    adversarial_weight: float = 1.0
    adversarial_start: int = 0
    commitment: float = 0.25
    bypass: float = 0.0
    control_steps: int = 4
    tune_decoder: bool = False


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """What the controlling module is.

    Attributes:
        multiscale: steers at every resolution, with a decoder of its own whose output is added to
            the upsampled LR image (`maskgit_sr.models.control.MultiscaleControl`). Off in the
            paper, where the module's encoder is a copy of the tokenizer's.
        sharpen: amount of the unsharp mask that a multiscale module starts from; 0: none.
        soften: sigma in HR pixels of the blur over what a multiscale module draws; 0: none.
        network: shape of a multiscale module's encoder and decoder, of the tokenizer's factor and
            code width.
    """

    multiscale: bool = False
    sharpen: float = 0.0
    soften: float = 0.0
    network: VQGANConfig = VQGANConfig()


@dataclasses.dataclass(frozen=True)
class RealSRTConfig:
    """Sizes of every network; the defaults are the published ones ("base")."""

    tokenizer: VQGANConfig = VQGANConfig()
    generator: TransformerConfig = TransformerConfig()
    critic: TransformerConfig = TransformerConfig(outputs=1, masked=False, decoder_depth=12)
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    control: ControlConfig = ControlConfig()
    losses: LossConfig = LossConfig()
    tile: TileSpec = TileSpec()
    schedule: str = "sqrt"
    steps: int = 4

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RealSRTConfig:
        """From JSON or an ml_collections dict; lists become tuples.

        Raises:
            ValueError: an unknown field, by name.
        """
        return _build(cls, values, "realsrt")


def _build(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    arguments = {}
    for name, value in values.items():
        if name == "remat":  # bundles of the first version have it; it is no part of a network
            continue
        if name not in fields:
            raise ValueError(
                f"{where}: unknown field {name!r}, expected one of {', '.join(fields)}"
            )
        default = fields[name].default
        if dataclasses.is_dataclass(default):
            value = _build(type(default), value, f"{where}.{name}")
        elif isinstance(value, list):
            value = tuple(value)
        arguments[name] = value
    return cls(**arguments)


class RealSRT:
    """The method; holds structure only, parameters are passed to every call."""

    name = "realsrt"
    scale = 4
    bundle_groups: tuple[str, ...] = ("tokenizer", "codebook", "generator", "critic", "control")

    def __init__(self, config: RealSRTConfig, execution: Execution | None = None):
        """Checks that the parts fit together.

        Raises:
            ValueError: the token grid, the tile and the tokenizer's factor disagree, or the
                controlling module does not fit.
        """
        self.config, self.tile = config, config.tile
        self.execution = execution or Execution()
        factor = config.tokenizer.factor
        if (config.tile.size * self.scale) % factor:
            raise ValueError(f"tile: size × {self.scale} must be a multiple of {factor}")
        side = config.tile.size * self.scale // factor
        self.grid = (side, side)
        for name in ("generator", "critic"):
            found = getattr(config, name)
            if found.grid != self.grid or found.code_width != config.tokenizer.code_width:
                raise ValueError(
                    f"{name}: expected grid {self.grid} and code width "
                    f"{config.tokenizer.code_width}, found {found.grid} and {found.code_width}"
                )
        if config.control.multiscale:
            self._check_control()
        run = dataclasses.asdict(self.execution)
        self.tokenizer = Network(lambda rngs: VQGAN(config.tokenizer, **run, rngs=rngs))
        self.generator = Network(lambda rngs: TokenTransformer(config.generator, **run, rngs=rngs))
        self.critic = Network(lambda rngs: TokenTransformer(config.critic, **run, rngs=rngs))
        self.control: Network[Any] = Network(lambda rngs: self._make_control(rngs, run))
        self.discriminator = Network(
            lambda rngs: PatchDiscriminator(
                config.discriminator, dtype=self.execution.dtype, rngs=rngs
            )
        )

    def _make_control(self, rngs: Any, run: dict[str, Any]) -> Control | MultiscaleControl:
        control = self.config.control
        if not control.multiscale:
            return Control(self.config.tokenizer, **run, rngs=rngs)
        return MultiscaleControl(
            control.network, sharpen=control.sharpen, soften=control.soften, **run, rngs=rngs
        )

    def _check_control(self) -> None:
        network, tokenizer = self.config.control.network, self.config.tokenizer
        for name in ("factor", "code_width"):
            expected, found = getattr(tokenizer, name), getattr(network, name)
            if found != expected:
                raise ValueError(
                    f"control.network: expected the tokenizer's {name} {expected}, found {found}"
                )
        if self.config.losses.tune_decoder:
            raise ValueError("tune_decoder: a multiscale control module has a decoder of its own")

    @property
    def stages(self) -> dict[str, Stage]:
        """tokenizer → generator → critic → control."""
        from maskgit_sr.methods.realsrt_stages import build_stages

        return build_stages(self)

    def describe(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return dataclasses.asdict(self.config)

    def shapes(self) -> Params:
        """Shapes of the bundle's groups."""
        tokenizer = self.config.tokenizer
        embedding = jax.ShapeDtypeStruct((tokenizer.codes, tokenizer.code_width), jnp.float32)
        networks = {g: getattr(self, g).shapes for g in self.bundle_groups if g != "codebook"}
        return networks | {"codebook": {"embedding": embedding}}

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        """Fresh parameters and statistics of ``groups``; each group has its own key."""
        params: Params = {}
        stats: Params = {}
        for group in groups:
            index = (*self.bundle_groups, "discriminator").index(group)
            group_key = jax.random.fold_in(key, index)
            if group == "codebook":
                config = self.config.tokenizer
                stats[group] = codebook.init(group_key, config.codes, config.code_width)._asdict()
                params[group] = {"embedding": stats[group]["embedding"]}
            else:
                params[group] = getattr(self, group).init(group_key)
        return params, stats

    def continued_stats(self, params: Params) -> Params:
        """The codebook's statistics from a trained codebook."""
        if "codebook" not in params:
            return {}
        return {"codebook": codebook.continued(params["codebook"]["embedding"])._asdict()}

    def upsample(self, lr: Image) -> Image:
        """The ×4 bicubic image that the tokenizer and the controlling module see."""
        return upsample_bicubic(lr, self.scale)

    def tokenize(self, params: Params, image: Image) -> TokenGrid:
        """Image [B, H, W, 3] → codebook indices [B, H/f, W/f]."""
        vectors = self.tokenizer.apply(params["tokenizer"], lambda m: m.encode(image))
        return codebook.nearest(vectors, params["codebook"]["embedding"])

    def embed(self, params: Params, tokens: TokenGrid | Tokens) -> Latent:
        """Codebook indices → code vectors, same leading shape."""
        return jnp.take(params["codebook"]["embedding"], tokens, axis=0)

    def memory(self, params: Params, network: str, lr_tokens: Tokens) -> Memory:
        """What ``generator`` or ``critic`` needs of the LR tokens at every step."""
        vectors = self.embed(params, lr_tokens)
        return getattr(self, network).apply(params[network], lambda m: m.encode(vectors))

    def logits(
        self, params: Params, network: str, tokens: Tokens, mask: Any, memory: Memory
    ) -> jax.Array:
        """One pass of ``generator`` or ``critic`` over HR tokens."""
        vectors = self.embed(params, tokens)
        return getattr(self, network).apply(
            params[network], lambda m: m.decode(vectors, mask, memory)
        )

    def generate(self, params: Params, upsampled: Image, keys: Keys, policy: Policy) -> Decoded:
        """Restored tokens of upsampled LR tiles, by iterative masked decoding."""
        batch = upsampled.shape[0]
        lr_tokens = self.tokenize(params, upsampled).reshape(batch, -1)
        memory = self.memory(params, "generator", lr_tokens)
        doubt = None
        if policy.asks_critic and "critic" in params:
            critic_memory = self.memory(params, "critic", lr_tokens)

            def doubt(tokens: Tokens) -> jax.Array:
                return self.logits(params, "critic", tokens, None, critic_memory)[..., 0]

        return decode(
            lambda tokens, mask: self.logits(params, "generator", tokens, mask, memory),
            doubt,
            batch,
            lr_tokens.shape[1],
            policy,
            keys,
        )

    def render(
        self, params: Params, tokens: TokenGrid, upsampled: Image, control: bool = True
    ) -> Image:
        """Tokens → image, steered by the LR image unless ``control`` is off."""
        vectors = self.embed(params, tokens)
        tokenizer = self.tokenizer.bind(params["tokenizer"])
        latent = tokenizer.latent(vectors)
        if not control:
            return tokenizer.decoder(latent)
        steered = self.control.apply(params["control"], lambda m: m(latent, upsampled))
        return steered if self.config.control.multiscale else tokenizer.decoder(steered)

    def restore(self, params: Params, lr: Image, keys: Keys, options: RestoreOptions) -> Restored:
        """LR tiles [B, tile, tile, 3] in [0, 1] → restored tiles ×4 (§3.2–3.4)."""
        upsampled = self.upsample(lr)
        decoded = self.generate(params, upsampled, keys, options.policy)
        grid = (lr.shape[0], *self.grid)
        tokens = decoded.tokens.reshape(grid)
        image = self.render(params, tokens, upsampled, options.control)
        confidence = None if decoded.confidence is None else decoded.confidence.reshape(grid)
        return Restored(color.correct(image, lr, options.color_fix), confidence, tokens)
