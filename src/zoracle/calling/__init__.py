"""Calls of the user's function: conversion of arrays, sequential or in an executor."""
