"""The parts of the experiment ``finetune``: text, networks, tasks and single trainings."""
