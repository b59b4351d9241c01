"""Where the pictures of a stored result lie."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.inspection.cases import Inspected
    from serving.reports.pictures import PictureFolder


def pictures_of_result(result: "Inspected", images: str | None = None) -> "PictureFolder":
    """Return the pictures in the folder `images`, or else in that of the result's configuration.

    Raises UserError for a folder that is not there.
    """
    from serving.reports.pictures import PictureFolder, image_folder

    content = result.stored.content
    dataset, split = content["config"].get("DATASET", {}), str(content["protocol"].get("split", ""))
    folders = ("", images) if images else (dataset.get("DATA_DIR", ""), dataset.get("IMAGE_DIR", ""))
    return PictureFolder(image_folder(*folders, split))
