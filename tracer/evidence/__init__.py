"""Gathers facts about stuck attempts while they are stuck, and has them judged."""
