"""Graph hypernetworks: predict the parameters of any network from its computational graph.

    import ghn, torchvision

    hypernetwork = ghn.from_pretrained()
    model = hypernetwork(torchvision.models.resnet50(num_classes=10))

Names are imported when first used, so that `import ghn` takes no time (the command line starts
without torch).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
