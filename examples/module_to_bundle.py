"""A trained module to an INT8 bundle, verified and running: python examples/module_to_bundle.py DIGITS BUNDLE."""

import sys

from safetensors.torch import load_file

import resnet_export as rx
from exporter.networks.cifar_resnet import CifarResNet

images, bundle = sys.argv[1], sys.argv[2]
model = CifarResNet(20, num_classes=10)
model.load_state_dict(load_file("examples/digits/resnet20_digits.safetensors"))
how = rx.Preprocessing(size=32, resize=(32, 32), mean=(0.306,) * 3, std=(0.324,) * 3)
report = rx.export(model, bundle, preprocessing=how, int8=True, calib=f"{images}/calib", val=f"{images}/val")
print(report.int8, "passed:", rx.verify(bundle, val=f"{images}/val", gates={"int8.top1_drop_pp": 2}).passed)
with rx.load(bundle, provider="cpu") as net:
    print(net.classify(f"{images}/val/7/0017.png"))
