"""Mask R-CNN (He et al. 2017, arXiv 1703.06870) on an encoder; torchvision's, set as XCiT's and Swin's configuration is.

Source: facebookresearch/xcit, detection/configs, and mmdetection 2.11's mask_rcnn_r50_fpn: anchors of 8 times the
stride at ratios 0.5, 1, 2 on five levels; RoIAlign of 7 (boxes, two layers of 1024) and 14 (masks, four convolutions);
thresholds 0.7 / 0.3 for anchors, 0.5 for regions; NMS 0.7 and 0.5; scores above 0.05; 100 detections an image.

Differs from the paper: torchvision's box loss is smooth L1 with beta 1/9 (mmdetection: L1) and its RoIAlign is not
shifted by half a pixel; `anchor_scale` and `channels` make the same model fit for small images and CPUs.
"""

from typing import Annotated

from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from mimlab.detection.backbone import DIVISOR, Backbone
from mimlab.detection.neck import STRIDES

RATIOS = (0.5, 1.0, 2.0)
PAPER_SCALE = 8  # anchors at stride 4 have 32 pixels; regions of 224 pixels are read from stride 16


def mask_rcnn(
    encoder,
    classes,
    *,
    channels: Annotated[int, (1, 4096)] = 256,
    hidden: Annotated[int, (1, 65536)] = 1024,
    regions: Annotated[int, (1, 4096)] = 512,
    proposals: Annotated[int, (1, 10_000)] = 1000,
    anchor_scale: Annotated[int, (1, 64)] = 8,
    sides=(800,),
    long_side=1333,
):
    """A `MaskRCNN` for `classes` names, background not counted. Images are lists of (3, H, W) in [0, 1], of any sizes.

    channels: of the pyramid and mask head; hidden: of the box head; regions: an image in training; proposals: kept after NMS, of a level before it twice as many in training;
    anchor_scale: anchors' side in strides, to which the choice of levels is tied; sides: shorter sides in pixels, one
    drawn an image in training, the last in testing; long_side: at most, in pixels. Detections are in the pixels of the
    images given.
    """
    backbone = Backbone(encoder, channels)
    strides = (*STRIDES, 2 * STRIDES[-1])
    anchors = AnchorGenerator(
        sizes=tuple((anchor_scale * stride,) for stride in strides), aspect_ratios=(RATIOS,) * len(strides)
    )
    levels = [str(level) for level in range(len(STRIDES))]
    canonical = 224 * anchor_scale // PAPER_SCALE
    box_pool, mask_pool = (MultiScaleRoIAlign(levels, side, 0, canonical_scale=canonical) for side in (7, 14))
    mean = encoder.normalise.mean.flatten().tolist()
    return MaskRCNN(
        backbone,
        min_size=tuple(sides),
        max_size=long_side,
        image_mean=mean,  # padding is 0, which is the mean colour then; the encoder divides
        image_std=[1.0, 1.0, 1.0],
        size_divisible=DIVISOR,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=2 * proposals,
        rpn_pre_nms_top_n_test=proposals,
        rpn_post_nms_top_n_train=proposals,
        rpn_post_nms_top_n_test=proposals,
        box_roi_pool=box_pool,
        box_head=TwoMLPHead(channels * 7 * 7, hidden),
        box_predictor=FastRCNNPredictor(hidden, classes + 1),
        box_batch_size_per_image=regions,
        mask_roi_pool=mask_pool,
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes + 1),
    )
