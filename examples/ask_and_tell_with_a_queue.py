"""Evaluations are done elsewhere, in any order, and some are lost: the optimizer only asks and is told."""

import queue
import threading

import torch

import zoracle

PROBLEMS, DIM, STEPS = 2, 10, 40

jobs = queue.Queue()
answers = queue.Queue()


def worker():
    """Stands for a laboratory, a robot or a cluster: takes a job, returns its value or loses it."""
    while (job := jobs.get()) is not None:
        step, problem, index, point = job
        lost = (step + index) % 13 == 0
        value = float("nan") if lost else float(((point - 0.5 * (problem + 1)) ** 2).sum())
        answers.put((problem, index, value))


workers = [threading.Thread(target=worker) for _ in range(4)]
for thread in workers:
    thread.start()

optimizer = zoracle.load("zo-adam", lr=0.05, num_directions=8)
state = optimizer.init(torch.zeros(PROBLEMS, DIM), seed=0)
for step in range(STEPS):
    queries = optimizer.ask(state)
    number = queries.points.shape[1]  # 9 points of each problem
    for problem in range(PROBLEMS):
        for index in range(number):
            jobs.put((step, problem, index, queries.points[problem, index]))
    values = torch.full((PROBLEMS, number), torch.nan)  # what is never answered stays NaN
    for _ in range(PROBLEMS * number):
        problem, index, value = answers.get()
        values[problem, index] = value
    state = optimizer.tell(state, queries, values)  # to stop and continue later, save zoracle.state.flatten(state)

for _ in workers:
    jobs.put(None)
for thread in workers:
    thread.join()
for problem in range(PROBLEMS):
    print(f"problem {problem}: mean of x is {state.x[problem].mean():.2f}, the optimum's is {0.5 * (problem + 1):.2f}")
