"""A folder with every asset, on random weights of reduced width."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.io import savemat

from maskgit_sr.convert import networks
from tests.metrics import forests
from tests.perceptual.perceptual_nets import alex_tensors, squeeze_tensors, tensors
from tests.perceptual.published import REFERENCE, weights


@pytest.fixture(scope="session")
def assets(tmp_path_factory):
    """What `metrics.create(…, assets=…)` takes, for every name."""
    folder = tmp_path_factory.mktemp("assets")
    save_file(alex_tensors(), folder / "lpips_alex.safetensors")
    save_file(squeeze_tensors(), folder / "lpips_squeeze.safetensors")
    dists = weights(REFERENCE["dists"]["shapes"])
    vgg = {name: value for name, value in dists.items() if name.startswith("features")}
    save_file(vgg, folder / "vgg16.safetensors")
    weighting = {name: value for name, value in dists.items() if name not in vgg}
    save_file(weighting, folder / "dists_alpha_beta.safetensors")
    save_file(tensors(3, {}, (4, 8, 16, 32, 32)), folder / "lpips_vgg.safetensors")
    rng = np.random.default_rng(3)
    save_file(weights(REFERENCE["inception"]["shapes"]), folder / "inception_fid.safetensors")
    save_file(weights(REFERENCE["clip"]["shapes"]), folder / "clip_rn50.safetensors")
    np.savez(folder / "koniq_ckpt.npz", **weights(REFERENCE["musiq"]["shapes"]))
    mean, scatter = rng.normal(size=36), rng.normal(size=(36, 50))
    cov = scatter @ scatter.T / 50
    np.savez(folder / "niqe_params.npz", mu_pris_param=mean[None], cov_pris_param=cov)
    matlab = {"mu_prisparam": 2 * mean[None], "cov_prisparam": cov}
    savemat(folder / "niqe_matlab_params.mat", matlab)
    forests.write(folder / "model.mat")
    networks.convert([folder / "model.mat"], folder / "ma.safetensors")
    return folder
