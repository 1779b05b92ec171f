"""Training by forward passes only, in place, with the memory of inference: MeZO, its successors, a learned method."""

from zoracle.finetune.ledger import Ledger
from zoracle.finetune.methods import METHODS
from zoracle.finetune.methods.learned import shipped as shipped_controller
from zoracle.finetune.optimizer import ZerothOrder, replay
from zoracle.finetune.ranks import Ranks
from zoracle.group import join

__all__ = ["METHODS", "Ledger", "Ranks", "ZerothOrder", "join", "replay", "shipped_controller"]
